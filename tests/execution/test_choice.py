"""The rule that picks a kernel, and the race that it picks from, on made-up times."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank.execution import Trial, timing
from lowrank.execution.choice import MARGIN, choose
from lowrank.execution.kernel import ACCURACIES, allowed


def trial(name: str, speedup: float, low: float | None = None, **more) -> Trial:
    values = {"packed_bytes": 100, "error": 0.0, "seconds": 1 / speedup} | more
    return Trial(name, speedup=speedup, speedup_low=speedup if low is None else low, **values)


DENSE = trial("dense", 1.0)


def test_the_fastest_is_taken():
    assert choose([DENSE, trial("a", 2), trial("b", 3), trial("c", 1.5)]) == 2


def test_what_is_faster_only_sometimes_is_not_taken():
    assert choose([DENSE, trial("a", 2, low=1.02)]) == 0
    assert choose([DENSE, trial("a", 1.02)]) == 0


def test_only_what_is_allowed_is_taken():
    trials = [DENSE, trial("a", 2), trial("b", 3, accuracy="bfloat16")]
    trials += [trial("c", 4, accuracy="int8")]
    assert [choose(trials, limit) for limit in ACCURACIES] == [1, 2, 3]


def test_what_was_refused_is_not_taken():
    assert choose([DENSE, Trial("a", refused="no"), trial("b", 9, refused="wrong")]) == 0


def test_among_equals_the_most_exact_then_the_smallest():
    equal = [DENSE, trial("a", 2.0, accuracy="bfloat16", packed_bytes=1)]
    equal += [trial("b", 1.99), trial("c", 1.97, packed_bytes=50)]
    assert choose(equal, "int8") == 3
    assert choose(equal[:3], "int8") == 2


def test_as_fast_as_dense_and_smaller_is_taken():
    assert choose([DENSE, trial("a", 1.01, low=0.97, packed_bytes=0)]) == 1
    assert choose([DENSE, trial("a", 0.99, packed_bytes=0)]) == 0
    assert choose([DENSE, trial("a", 1.01, packed_bytes=100)]) == 0
    assert choose([DENSE, trial("a", 1.01, packed_bytes=0, accuracy="int8")], "int8") == 0


speeds = st.floats(0.01, 100)
trials = st.builds(
    lambda s, share, held, accuracy: trial("k", s, s * share, packed_bytes=held, accuracy=accuracy),
    *(speeds, st.floats(0.1, 1), st.integers(0, 200), st.sampled_from(ACCURACIES)),
)


@given(st.lists(trials, max_size=6), st.sampled_from(ACCURACIES))
def test_never_slower_than_dense_and_never_less_exact_than_allowed(others, limit):
    found = [DENSE, *others]
    chosen = found[choose(found, limit)]
    assert chosen.speedup >= 1
    assert allowed(chosen.accuracy, limit)
    clearly = [t.speedup for t in others if allowed(t.accuracy, limit) and t.speedup_low >= MARGIN]
    assert chosen.speedup >= max(clearly, default=0) / MARGIN * (1 - 1e-12)


@pytest.fixture
def fake(monkeypatch):
    """A clock that the kernels themselves move on."""

    def race(costs, factor=lambda turn: 1.0, seconds=1e-9):
        now, log = [0.0], []

        def run(index):
            def one(_):
                log.append(index)
                now[0] += costs[index] * factor(len(log))

            return one

        monkeypatch.setattr(timing, "clock_of", lambda _: lambda: now[0])
        return timing.race([run(i) for i in range(len(costs))], torch.zeros(1), seconds), log

    return race


def test_speedups_are_ratios_to_the_first(fake):
    times, _ = fake([0.4, 0.2, 0.5])
    assert [t.speedup for t in times] == pytest.approx([1, 2, 0.8])
    assert [t.seconds for t in times] == pytest.approx([0.4, 0.2, 0.5])
    assert [t.speedup_low for t in times] == pytest.approx([1, 2, 0.8])
    assert [t.speedup_high for t in times] == pytest.approx([1, 2, 0.8])


def test_a_speedup_lies_in_its_own_interval_on_a_restless_machine(fake):
    # Every fourth block takes twice as long, whoever runs it.
    times, _ = fake([0.4, 0.2, 0.5], factor=lambda turn: 1 + (turn % 4 == 0))
    assert any(t.speedup_low < t.speedup_high for t in times)
    assert all(t.speedup_low <= t.speedup <= t.speedup_high for t in times)


def test_a_machine_that_slows_down_does_it_to_all(fake):
    times, _ = fake([0.4, 0.2], factor=lambda turn: 1 + turn / 1000)
    assert times[1].speedup == pytest.approx(2, rel=0.02)


def test_kernels_take_turns_in_changing_order(fake):
    _, log = fake([0.4, 0.4, 0.4])
    assert log[9:18] == [0, 1, 2, 2, 1, 0, 0, 1, 2]


def test_the_hopeless_are_timed_once(fake):
    times, log = fake([0.4, 5.0])
    assert log.count(1) == 3
    assert times[1].speedup == pytest.approx(0.08)
    assert log.count(0) == 3 + timing.LEAST_ROUNDS


def test_short_passes_are_warmed_and_repeated(fake):
    _, log = fake([0.00005, 0.00005])
    block = timing.WARM_PASSES + 4
    assert log[6 : 6 + 2 * block] == [0] * block + [1] * block


def test_the_clock_of_one_thread_is_that_of_the_process():
    import time

    assert timing.clock_of(torch.device("cpu")) is time.process_time
    with timing.threads(2):
        assert timing.clock_of(torch.device("cpu")) is time.perf_counter
    assert torch.get_num_threads() == 1
