"""Where nothing can be written, read or put."""

import os
import socket

import torch
from files import linear, two
from row import Row
from torch import nn

from lowrank.calibration import Calibration
from lowrank.export import checkpoint
from lowrank.records import store


def onto(device):
    """Load onto a device; the file is not even looked at."""
    return lambda folder: checkpoint.load(folder / "missing", two(), device=device)


def into_compiled(folder):
    checkpoint.save(two(), folder / "m")
    return checkpoint.load(
        folder / "m", nn.Sequential(linear(), torch.compile(nn.Linear(8, 3), backend="eager"))
    )


def over(make):
    """Save where something is that is no file; it stays."""

    def act(folder):
        path = make(folder)
        kind = path.lstat().st_mode
        try:
            return checkpoint.save(two(), path)
        finally:
            assert path.lstat().st_mode == kind and len(list(folder.iterdir())) == 1

    return act


def pipe(folder):
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def socket_of(folder):
    # Its whole path may have no more than 108 characters.
    here = os.open(folder, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{here}/socket")
    os.close(here)
    return folder / "socket"


def loop(folder):
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


def link_to_pipe(folder):
    inner = folder / "inner"
    inner.mkdir()
    pipe(inner)
    (inner / "link").symlink_to("pipe")
    return checkpoint.save(two(), inner / "link")


EMPTY = Calibration({}, {})
PATHS = {
    "None": (None, "=None must be a path"),
    "a number": (3, "=3 must be a path"),
    "bytes": (b"m", "=b'm' must be a path"),
    "a model": (nn.Linear(2, 2), "must be a path: a text or a pathlib.Path"),
    "a NUL": ("a\0b", "has a character of code 0"),
    "a lone surrogate": ("\ud800", "is no path: surrogates not allowed"),
    "nothing": ("", "is empty"),
}
USES = {
    "save": lambda path: checkpoint.save(two(), path),
    "load": lambda path: checkpoint.load(path, two()),
    "save statistics": EMPTY.save,
    "load statistics": Calibration.load,
    "results": lambda path: store.load(path),
    "a record": lambda path: store.exists("key", path),
}


def at(use, path):
    return lambda _: USES[use](path)


ROWS = [
    *(
        Row(f"{use} with {name} as its path", at(use, path), says)
        for use in USES
        for name, (path, says) in PATHS.items()
    ),
    Row("save over a pipe", over(pipe), "is no file but a device, pipe or socket"),
    Row("save over a socket", over(socket_of), "is no file but a device, pipe or socket"),
    Row("save over a link to a pipe", link_to_pipe, "is no file but a device, pipe or socket"),
    Row("save over a link to itself", over(loop), "is a link that leads back to itself"),
    Row("save as a folder", lambda f: checkpoint.save(two(), f), "is a folder: name a file"),
    Row("save statistics over a pipe", lambda f: EMPTY.save(pipe(f)), "is no file but a device"),
    Row("load into compiled", into_compiled, r"give model.1._orig_mod"),
    Row("load onto nonsense", onto("nonsense"), "device='nonsense': it must be a name such as"),
    Row("load onto no name", onto(""), "device='': it must be a name such as 'cpu'"),
    Row("load onto a number", onto(3), "device=3: it must be a name such as 'cpu'"),
    Row("load onto a real number", onto(3.5), "device=3.5: it must be a name such as 'cpu'"),
    Row("load onto what is missing", onto("cuda:99"), "device='cuda:99': .*that is there: "),
    Row("load onto mps", onto("mps:99"), "device='mps:99': .*that is there: "),
    Row("load onto meta", onto(torch.device("meta")), "device='meta' has no numbers"),
]
