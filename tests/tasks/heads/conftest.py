import mirrors
import pytest


@pytest.fixture(scope="module")
def hub():
    """The mirror that a module makes in its own fixture of this name, if it needs one."""
    return None


@pytest.fixture(autouse=True)
def mirror(hub, monkeypatch):
    if hub is not None:
        mirrors.use(hub, monkeypatch)
