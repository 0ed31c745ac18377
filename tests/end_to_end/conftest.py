"""Configs of sweeps, composed as a sweep composes them."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from sweeps import ROOT

from experiments.composer import Composer


@pytest.fixture(scope="module")
def composing():
    """Inside, `hydra.compose` finds this project's YAML."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def composer(composing):
    loader = GlobalHydra.instance().config_loader()
    return Composer(loader, compose("config", return_hydra_config=True))
