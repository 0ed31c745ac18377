"""The choice among the kernels that were tried for a layer."""

from __future__ import annotations

from collections.abc import Sequence

from lowrank.execution.kernel import ACCURACIES, Accuracy, Goal, allowed
from lowrank.execution.plan import Trial

# The speed-up above which a kernel is clearly faster; below, kernels are equally fast.
MARGIN = 1.03


def choose(trials: Sequence[Trial], limit: Accuracy = "exact", goal: Goal = "speed") -> int:
    """The place of the kernel to take: for speed, never one that was measured slower than dense.

    The fastest of those that are clearly faster than dense (the speed-up of each is above 1.03 with
    a confidence of 95 %); of those equally fast to it the most exact, then the one that holds the
    least memory. Where none is clearly faster, an exact kernel that is as fast as dense and holds
    less, or else dense.

    Args:
        trials: dense first.
        limit: the loosest accuracy that may be taken.
        goal: ``memory`` takes the kernel that holds and makes the fewest bytes, however slow; of
            equal ones the fastest.
    """
    usable = [i for i, t in enumerate(trials) if not t.refused and allowed(t.accuracy, limit)]
    if goal == "memory":
        return min(usable, key=lambda i: (_memory(trials[i]), -_number(trials[i].speedup)))
    faster = [i for i in usable[1:] if _number(trials[i].speedup_low) >= MARGIN]
    if faster:
        best = max(_number(trials[i].speedup) for i in faster)
        near = [i for i in faster if _number(trials[i].speedup) >= best / MARGIN]
        return min(near, key=lambda i: _rank(trials[i]))
    held = _number(trials[0].packed_bytes)
    thrifty = [
        i
        for i in usable[1:]
        if trials[i].accuracy == "exact"
        and _number(trials[i].speedup) >= 1
        and _number(trials[i].packed_bytes) < held
    ]
    return min(thrifty, key=lambda i: _rank(trials[i]), default=0)


def _rank(trial: Trial) -> tuple[int, float, float]:
    """The least of these is preferred among the equally fast."""
    accuracy = ACCURACIES.index(trial.accuracy)
    return accuracy, _number(trial.packed_bytes), -_number(trial.speedup)


def _memory(trial: Trial) -> float:
    return _number(trial.packed_bytes) + _number(trial.made_bytes)


def _number(value: float | None) -> float:
    assert value is not None, "a kernel that was not refused was measured"
    return value
