"""`compress_checkpoint`, which compresses a folder of `transformers` of any size."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from lowrank.calibration import Calibration, NormProvider, at_hand
from lowrank.compression.compress import Method, Where, as_allocation, as_norms
from lowrank.export.streamed.bar import shown
from lowrank.export.streamed.calibrated import Calibrated
from lowrank.export.streamed.finish import finished, reported
from lowrank.export.streamed.from_statistics import check_statistics, made_from_statistics
from lowrank.export.streamed.parts import CheckpointPart
from lowrank.export.streamed.report import CompressedCheckpoint
from lowrank.export.streamed.request import Request, data_for
from lowrank.export.streamed.sequence import made_in_sequence
from lowrank.export.streamed.target import prepare
from lowrank.export.streamed.work import CheckpointWork
from lowrank.files.paths import as_path
from lowrank.files.tensor_folders import INDEX
from lowrank.numerics.checks import check_integer

ENDED = (
    "a worker process ended before its weight was written. The system may have ended it for want "
    "of memory, where fewer workers help, or it could not start, as where a program does not guard "
    'its own start by `if __name__ == "__main__":`. What is done stays, and the same call goes on '
    "with it"
)


def compress_checkpoint(
    source: str | Path,
    target: str | Path,
    method: Method,
    where: Where = None,
    norm: NormProvider | str | None = None,
    data: Any = None,
    *,
    values: str | None = None,
    strict: bool = False,
    dtype: str | None = None,
    workers: int = 1,
) -> CompressedCheckpoint:
    """Compress a model of `transformers` from its folder into another one, weight by weight or,
    with calibration data, block by block.

    The model is never in memory as a whole: its structure is built without numbers, and each weight
    is read, compressed and written by itself. The result is what `compress` and `save` would write,
    tensor by tensor, and `load` reads the folder. Files beside the weights, such as those of a
    tokenizer, are copied.

    The same call goes on where one was killed: weights that are written are not compressed again.
    The index is written last, and without it nothing loads the folder. On a terminal a bar shows
    the time left.

    Args:
        source: a folder with ``config.json`` and weights as safetensors, in one file or in shards,
            of a class that comes with `transformers`. It must not change meanwhile.
        target: made; an empty folder may be there, or one that the same call has begun.
        method, where, values, strict: as `compress` takes them. The method must choose by the
            shapes of weights alone: a decomposer, or decomposers by pattern of the name.
        norm, data: as `compress` takes them; norms of data are those of `CalibratedNorms` without
            Fisher information. Blocks, the children of a list of modules, are then in memory one
            after the other, and their outputs are kept on disk; a killed call goes on at the block
            where it stopped. From a `Calibration`, such as one of `calibrate_checkpoint`, one
            weight after the other is compressed, and no data are run.
        dtype: of the weights, such as ``"float32"``; by default that of the config.
        workers: how many weights are compressed at the same time. Without data by processes, each
            with one weight in memory; they are started anew, so that a program must guard its own
            start by ``if __name__ == "__main__":``. With data by threads, which divide the weights
            of a block and the threads of torch, as for `compress`.

    Raises:
        ValueError: as `compress`; and for a source that is incomplete or damaged, a model that is
            not read so, or a target that holds something else. All but numbers that are not finite
            is found before the work.
        MissingExtra: `transformers` is not installed.
        OSError: a file cannot be written, such as when the disk is full; what is done stays.
        RuntimeError: a process of workers was ended; what is done stays.
    """
    check_integer("workers", workers, least=1)
    folder, place = as_path(source, "source"), as_path(target, "target")
    if not folder.is_dir():
        raise ValueError(f"source={str(folder)!r} is no folder: name that of a model")
    data = at_hand(data)
    norms = as_norms(norm, as_allocation(method), data)
    given = data_for(norms, data) if norms.needs_data else None
    request = Request(folder, place, method, where, norms, given, values, strict, dtype)
    work = CheckpointWork(request)
    check_statistics(work)
    prepare(request)
    try:
        return _compressed(work, workers)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            error.errno,
            "No space left on the disk; what is done stays, and the same call goes on with it",
            error.filename,
        ) from error


def _compressed(work: CheckpointWork, workers: int) -> CompressedCheckpoint:
    todo = [part for part in work.parts if work.done(part) is None]
    total = sum(part.numbers for part in work.parts)
    with shown(total, total - sum(part.numbers for part in todo)) as tick:
        calibrated = work.request.norm.needs_data
        made = (_made_calibrated if calibrated else _made)(work, todo, workers)
        for part in made:
            tick(part.label, part.numbers)
    files = {part.file: work.done(part) for part in work.parts}
    parts = {name: file for name, file in files.items() if file is not None}
    is_finished = not todo and (work.request.target / INDEX).is_file()
    return (reported if is_finished else finished)(work, parts)


def _made_calibrated(
    work: CheckpointWork, todo: Sequence[CheckpointPart], workers: int
) -> Iterator[CheckpointPart]:
    """As `_made`, in norms of data."""
    fitting, left = work.fitting(), list[CheckpointPart]()
    for part in todo:
        if part.site is not None and part.site.name in fitting:
            left.append(part)
            continue
        work.make(part)  # It is copied; no level fits it.
        yield part
    of = Calibrated(work, fitting, left, workers)
    is_saved = isinstance(work.request.data, Calibration)
    yield from (made_from_statistics if is_saved else made_in_sequence)(of)


def _made(
    work: CheckpointWork, todo: Sequence[CheckpointPart], workers: int
) -> Iterator[CheckpointPart]:
    """The parts, each when its file is written."""
    if workers == 1 or len(todo) < 2:
        for part in todo:
            work.make(part)
            yield part
        return
    places = {part.number: part for part in todo}
    # A process that is forked may wait for a lock of torch for ever. Numbers depend on the number
    # of threads, so that all have that of this process.
    start = (work.request, torch.get_num_threads())
    processes = min(workers, len(todo)), get_context("spawn")
    with ProcessPoolExecutor(*processes, initializer=_start, initargs=start) as pool:
        futures = [pool.submit(_make, number) for number in places]
        try:
            for future in as_completed(futures):
                yield places[future.result()]
        except BrokenProcessPool as error:
            raise RuntimeError(ENDED) from error
        finally:
            for future in futures:
                future.cancel()


# In a process of workers, its parts.
_MAKERS: dict[int, Callable[[], object]] = {}


def _start(request: Request, threads: int) -> None:
    torch.set_num_threads(threads)
    work = CheckpointWork(request)
    _MAKERS.update({part.number: partial(work.make, part) for part in work.parts})


def _make(number: int) -> int:
    _MAKERS[number]()
    return number
