"""Composes the configs of a sweep's many points, reading the YAML once per choice of groups."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from experiments.yaml_folders import CONF

# The settings of a point: the fields of config.yaml, and those that its groups fill.
_FOLDERS = {path.name for path in CONF.iterdir() if path.is_dir()}
# Of other programs, each with the YAML of its name.
_PROGRAMS = {name for name in _FOLDERS if (CONF / name / f"{name}.yaml").is_file()}
_NAMES = {str(name) for name in OmegaConf.load(CONF / "config.yaml")} | _FOLDERS
NO_FIELDS = {"defaults", "experiment", "hydra", "reproduction"} | _PROGRAMS
FIELDS = sorted(_NAMES - NO_FIELDS)


class Composer:
    """Stands in for Hydra's config loader in a launcher.

    Hydra reads and merges all YAML for each job, twice, which takes as long as measuring a small
    model. Points that differ in values only, such as `method.rank=8`, share here what they are
    composed from.

    Args:
        loader: Hydra's own.
        master: the config of the whole sweep.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader = loader
        self.master = master
        self.parsed: dict[str, Override] = {}
        self.groups: dict[str, bool] = {}
        self.composed: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}

    def settings(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The settings of a point as plain values.

        Raises:
            ConfigCompositionException: an override names a group or an option that is not there, or
                a value that does not fit, or adds a field that nothing reads; the text names it.
        """
        own, hydra = self._base(overrides)
        # The names of chosen groups are asked from Hydra's global config.
        HydraConfig.instance().cfg = hydra  # type: ignore[assignment]
        config = self._with_values(own, overrides)
        _check_added(config)
        return resolve(config)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: Sequence[str]
    ) -> DictConfig:
        """The config of one point for the job that measures it, as Hydra's own loader makes it."""
        own, hydra = self._base(sweep_overrides)
        config = self._with_values(own, sweep_overrides)
        with open_dict(config):
            config.hydra = copy.deepcopy(hydra.hydra)
            config.hydra.overrides.task = list(sweep_overrides)
        return config

    def _base(self, overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
        """The config shared by all points with these choices of groups, and Hydra's part of it."""
        key = tuple(text for text in overrides if not self._is_value(text))
        if key not in self.composed:
            config = self.loader.load_sweep_config(self.master, list(key))
            with read_write(config), open_dict(config):
                hydra = OmegaConf.masked_copy(config, "hydra")
                # A job does not sweep, and copying the grids for each takes time.
                hydra.hydra.sweeper = {}
                del config["hydra"]
            self.composed[key] = config, hydra
        return self.composed[key]

    def _with_values(self, config: DictConfig, overrides: Sequence[str]) -> DictConfig:
        config = copy.deepcopy(config)
        for text in filter(self._is_value, overrides):
            override = self._parse(text)
            try:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
            except OmegaConfBaseException as error:
                raise ConfigCompositionException(f"Could not override '{text}'") from error
        return config

    def _is_value(self, text: str) -> bool:
        """Whether an override changes a field, and neither adds one nor chooses from a group."""
        override = self._parse(text)
        name = override.key_or_group
        if name not in self.groups:
            self.groups[name] = bool(self.loader.get_group_options(name))
        return override.type == OverrideType.CHANGE and not self.groups[name]

    def _parse(self, text: str) -> Override:
        if text not in self.parsed:
            self.parsed[text] = OverridesParser.create(self.loader).parse_override(text)
        return self.parsed[text]


def _check_added(config: DictConfig) -> None:
    added = [str(name) for name in config if name not in FIELDS]
    written = OmegaConf.to_yaml(config) if added else ""
    unread = [name for name in added if not re.search(rf"\$\{{{re.escape(name)}\b", written)]
    if unread:
        raise ConfigCompositionException(
            f"nothing reads the field {', '.join(unread)}: a point has {', '.join(FIELDS)}"
        )


def resolve(config: DictConfig) -> dict[str, Any]:
    """The settings of a point as plain values, every interpolation resolved.

    Raises:
        ConfigCompositionException: a field that must be given is not, or refers to none.
    """
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore
    except OmegaConfBaseException as error:
        raise ConfigCompositionException(str(error)) from None
