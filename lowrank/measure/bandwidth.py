"""How fast a device reads from its memory: the limit of passes that read every weight once."""

from __future__ import annotations

import functools
import time

import torch

# Larger than what one core finds in its caches.
BYTES = {"cpu": 2**28, "cuda": 2**30}
REPEATS = 5


def read_bandwidth(device: str | torch.device = "cpu") -> float:
    """Bytes a second that a device reads from memory, with as many threads as torch uses now.

    The largest of five times of the maximum over 256 MiB of float32 (1 GiB on CUDA), which are
    allocated meanwhile. A kernel whose weights stay in a cache reads faster than this. Measured
    once in a process for each device and number of threads.
    """
    return _measured(torch.device(device), torch.get_num_threads())


@functools.cache
def _measured(device: torch.device, threads: int) -> float:
    del threads  # Torch's own number, part of the key.
    values = torch.ones(BYTES.get(device.type, BYTES["cpu"]) // 4, device=device)
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            values.amax().item()  # Waits until it is there.
            seconds.append(time.perf_counter() - started)
    return values.nbytes / min(seconds[1:])
