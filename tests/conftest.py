"""Settings for all tests, and the place that they share."""

import gc
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import settings

# Hydra looks for plugins once in a process, and this module says where ours is.
import experiments.sweep  # noqa: F401

# Test processes and their programs run side by side; threads of their own would only get in each
# other's way.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `transformers` copies the code of models here and imports it: one folder for all tests of a
# process, where Python finds one package of its name, and none that another process fills too.
MODULES = TemporaryDirectory(prefix="lowrank-modules-")
os.environ["HF_MODULES_CACHE"] = MODULES.name

# The same examples every time, so that a change alone decides whether the tests pass, and slow
# machines may be slow; `pytest --hypothesis-profile=explore` looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Tell the garbage collector that 16,000 tests, and the libraries that they import, stay."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Where the dense models are kept, one place for all tests so that each is trained once."""
    base = tmp_path_factory.getbasetemp()
    # Each worker of pytest-xdist has a folder of its own below that of the test run.
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "lowrank-cache"
