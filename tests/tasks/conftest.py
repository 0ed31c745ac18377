import pytest
import torch

# Several test processes share the cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path_factory, monkeypatch):
    """Each test has a cache of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LOWRANK_CACHE", str(folder))
    return folder
