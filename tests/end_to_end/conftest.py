import os
from pathlib import Path

import pytest

import experiments.sweep  # noqa: F401 — says where Hydra finds the sweeper


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Where the dense models are kept, one place for all tests so that each is trained once."""
    base = tmp_path_factory.getbasetemp()
    # Each worker of pytest-xdist has a folder of its own below that of the test run.
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "lowrank-cache"
