"""Tasks that a record may have made anew: those of this project's YAML, and of the user's own.

A record is somebody's file, and the config in it names what is called to make its task: any
function of any package, any folder with a model's code, any address. It is only followed where it
says nothing that a file of conf/task does not say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.yaml_folders import CONF
from lowrank.records.store import SEED_FIELDS
from lowrank.tasks import Task

# Fields that may differ: they say where a task is made, not which task it is.
DEVICE = "device"
# The largest factor between a number of a record and that of the YAML.
MOST = 10
OURS = ("hydra", "main", "schema")


def task_of(record: Mapping[str, Any]) -> Task:
    """The task of a record, made anew.

    Raises:
        ValueError: as `trusted_task`, or its data or weights are not there.
    """
    return instantiate(trusted_task(record["config"]["task"]), _convert_="all")


def trusted_task(config: Any) -> dict[str, Any]:
    """The config of a record's task, to be made here, if a YAML composes to it.

    Numbers may be others, up to `MOST` times those of the YAML, so that no record makes a report
    train for days. Every text and switch must be the same, and so must be what fields there are.

    Raises:
        ValueError: no YAML does; the text says in what the nearest differs.
    """
    differing = {name: _differing(config, known, "task") for name, known in known_tasks()}
    nearest = min(differing, key=lambda name: len(differing[name]))
    if differing[nearest]:
        raise ValueError(
            "a record's task is made anew only where a YAML of conf/task says the same; the "
            f"nearest, {nearest}, differs in {', '.join(differing[nearest][:3])}. YAML of your own "
            "is found by hydra.searchpath=[file://<its folder>]"
        )
    return dict(config) | {DEVICE: "cpu"}


def known_tasks() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tasks that can be composed here, by name, as a sweep would compose them."""
    folders = [CONF, *_own_folders()]
    paths = ", ".join(f"'file://{folder}'" for folder in folders[1:])
    # Nothing is swept, and a program that sweeps nothing does not know our sweeper.
    overrides = ["hydra/sweeper=basic", f"hydra.searchpath=[{paths}]"]
    names = {file.stem for folder in folders for file in (folder / "task").glob("*.yaml")}
    state = Singleton.get_state()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            for name in sorted(names):
                try:
                    whole = compose("config", [*overrides, f"task={name}"])
                    yield name, OmegaConf.to_container(whole.task, resolve=True)  # type: ignore
                except (HydraException, OmegaConfBaseException):
                    continue  # What cannot be composed cannot be in a record.
    finally:
        Singleton.set_state(state)


def _own_folders() -> list[Path]:
    """Where else this program's command line says that YAML lies."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    own = [one for one in sources if one.provider not in OURS and one.schema == "file"]
    return [Path(one.path).resolve() for one in own]


def _differing(found: Any, known: Any, path: str) -> list[str]:
    """The fields in which a config says anything but another number."""
    if isinstance(found, Mapping) and isinstance(known, Mapping):
        both = [name for name in known if name in found and name != DEVICE]
        inner = [_differing(found[name], known[name], f"{path}.{name}") for name in both]
        single = [name for name in {*known} ^ {*found} if name != DEVICE]
        return sum(inner, [f"{path}.{name}" for name in sorted(single)])
    numbers, ours = _numbers(found), _numbers(known)
    if numbers is not None and ours is not None:
        most = MOST * max([1, *map(abs, ours)])
        drawn = path.rpartition(".")[2] in SEED_FIELDS
        few = len(numbers) <= MOST * max(1, len(ours))
        return [] if drawn or (few and all(abs(one) <= most for one in numbers)) else [path]
    if isinstance(found, list | tuple) and isinstance(known, list | tuple):
        same = len(found) == len(known)
        pairs = enumerate(zip(found, known, strict=False))
        inner = [_differing(one, other, f"{path}[{i}]") for i, (one, other) in pairs]
        return sum(inner, []) if same else [path]
    return [] if type(found) is type(known) and found == known else [path]


def _numbers(value: Any) -> list[float] | None:
    """The numbers of a field that holds a number, a list of them, or nothing; None if others."""
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    plain = all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
    return list(values) if plain else None
