"""The run of a sweep's points until each has a record, of this or another process, or failed."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

from experiments.plan import SweepJob
from experiments.progress import Outcome, Progress
from lowrank.records.claims import Claims

# Seconds between two looks at what other processes have done.
PAUSE = 0.5
# The number of tries of a point whose worker is lost, before it counts as failed.
TRIES = 2

Launch = Callable[[Sequence[SweepJob]], Sequence[Outcome]]


def launch_all(jobs: Sequence[SweepJob], launch: Launch, progress: Progress) -> Counter[Outcome]:
    """Run all points; the number of points by outcome.

    A point that another process has claimed is passed over; at the end it is waited for, and
    measured here if the other one dies or fails. A point whose worker was lost is tried once more.
    """
    ended: Counter[Outcome] = Counter()
    lost: Counter[str] = Counter()
    claimed: list[SweepJob] = []
    left = list(jobs)
    while left:
        again = []
        for job, outcome in zip(left, launch(left), strict=True):
            point = " ".join(job.overrides)
            if outcome == "claimed":
                claimed.append(job)
            elif outcome != "lost":
                ended[outcome] += 1
            elif lost[job.key] + 1 < TRIES:
                lost[job.key] += 1
                again.append(job)
                _say(f"the worker of {point} was killed; the point is measured again")
            else:
                ended["failed"] += 1
                reason = f"its worker was killed {TRIES} times; by a lack of memory?"
                progress.failed(point, job.key, reason)
        left = again
        if claimed and not left:
            left, claimed = _free(claimed)
    return ended


def _free(claimed: Sequence[SweepJob]) -> tuple[list[SweepJob], list[SweepJob]]:
    """Wait until some points are claimed no longer; those, and the others."""
    is_said = False
    while True:
        held = [Claims(job.folder).is_held(job.key) for job in claimed]
        if not all(held):
            pairs = list(zip(claimed, held, strict=True))
            return [job for job, is_held in pairs if not is_held], [j for j, h in pairs if h]
        if not is_said:
            _say(f"waiting for {len(claimed)} points that other processes are measuring")
            is_said = True
        time.sleep(PAUSE)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
