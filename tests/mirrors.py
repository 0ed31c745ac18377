"""Mirrors of the hub in the folders of tests."""

from pathlib import Path

import pytest


def use(hub: Path, patch: pytest.MonkeyPatch) -> None:
    """Take models and data from a mirror; what `datasets` makes of the data goes beside it."""
    import datasets

    patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(hub.parent / "arrow"))
    patch.setenv("LOWRANK_HUB", str(hub))
