"""The choice among the kernels that were tried for a layer."""

from __future__ import annotations

from collections.abc import Sequence

from lowrank.execution.kernel import ACCURACIES, Accuracy, allowed
from lowrank.execution.plan import Trial

# The speed-up above which a kernel is clearly faster; below, kernels are equally fast.
MARGIN = 1.03


def choose(trials: Sequence[Trial], limit: Accuracy = "exact") -> int:
    """The place of the kernel to take: never one that was measured slower than dense.

    The fastest of those that are clearly faster than dense (the speed-up of each is above 1.03 with
    a confidence of 95 %); of those equally fast to it the most exact, then the one that holds the
    least memory. Where none is clearly faster, an exact kernel that is as fast as dense and holds
    less, or else dense.

    Args:
        trials: dense first.
        limit: the loosest accuracy that may be taken.
    """
    usable = [i for i, t in enumerate(trials) if not t.refused and allowed(t.accuracy, limit)]
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


def _number(value: float | None) -> float:
    assert value is not None, "a kernel that was not refused was measured"
    return value
