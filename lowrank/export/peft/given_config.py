"""``adapter_config.json`` of a folder, checked: what of it is known, and what it says of layers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowrank.export.peft.config import CONFIG
from lowrank.export.peft.matching import (
    Patterns,
    barred,
    check_pattern,
    compiled,
    number_of,
    targeted,
    value_of,
)
from lowrank.files.fields import Fields, parse, shown

# More bytes, and more patterns, than any config has.
LONGEST, MOST_PATTERNS = 2**24, 10_000
TYPES = ("LORA", "VERA")
# Fields that change nothing of what is computed, or only how training starts.
IDLE = {
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode"),
    *("auto_mapping", "peft_version", "fan_in_fan_out", "megatron_core", "qalora_group_size"),
    *("eva_config", "runtime_config", "projection_prng_key", "d_initial", "init_weights"),
}
# Fields that are read, or of which one value is known.
READ = {
    *("r", "lora_alpha", "lora_dropout", "target_modules", "rank_pattern", "alpha_pattern"),
    *("use_rslora", "use_dora", "modules_to_save", "bias", "init_lora_weights"),
    *("vera_dropout", "save_projection", "exclude_modules"),
    *("layers_to_transform", "layers_pattern"),
}
# Starts that leave the weight of the base as it is when PEFT loads a folder.
STARTS = (True, False, "gaussian", "eva", "orthogonal", None)


@dataclass(frozen=True)
class GivenConfig:
    """A config of LoRA, DoRA or VeRA.

    Attributes:
        kind: the type of the adapter, LORA or VERA.
        targets, excluded: a regular expression, or ends of names.
        numbers: of the layers with adapters; all if there are none.
        stacks: regular expressions of the names before those numbers; any if there are none.
        saved: the ends of names of the modules that are saved whole.
    """

    kind: str
    rank: int
    alpha: float
    ranks: Patterns
    alphas: Patterns
    dropout: float
    targets: str | tuple[str, ...]
    excluded: str | tuple[str, ...]
    numbers: tuple[int, ...]
    stacks: tuple[str, ...]
    saved: tuple[str, ...]
    is_rslora: bool
    has_lengths: bool
    has_biases: bool

    def adapted(self, names: Collection[str]) -> set[str]:
        """Which of these modules PEFT adapts."""
        found = targeted(self.targets, names)
        if self.numbers and not isinstance(self.targets, str):
            found = [name for name in found if number_of(name, self.stacks) in self.numbers]
        return {*found}.difference(targeted(self.excluded, names), barred(self.saved, found))

    def rank_of(self, name: str) -> int:
        """The rank that PEFT gives a layer."""
        return value_of(self.ranks, name, self.rank)

    def scale_of(self, name: str) -> float:
        """The factor of its adapter."""
        rank = self.rank_of(name)
        share = math.sqrt(rank) if self.is_rslora else rank
        return value_of(self.alphas, name, self.alpha) / share


def read_config(folder: Path) -> GivenConfig:
    """The config in a folder.

    Raises:
        ValueError: it is not JSON, of another kind of adapter, or has parts that are not known.
        FileNotFoundError: there is none.
    """
    path = folder / CONFIG
    if path.stat().st_size > LONGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, and no config has")
    fields = Fields(parse(path.read_bytes(), CONFIG), CONFIG)
    kind = fields.get("peft_type")
    if kind not in TYPES:
        raise ValueError(f"{CONFIG}: peft_type is {shown(kind)}, and one of {TYPES} can be read")
    _check_known(fields)
    is_lora = kind == "LORA"
    return GivenConfig(
        kind=kind,
        rank=fields.integer("r", least=1),
        alpha=_alpha(fields, "lora_alpha") if is_lora else 1.0,
        ranks=_pattern(fields, "rank_pattern", lambda own, key: own.integer(key, least=1)),
        alphas=_pattern(fields, "alpha_pattern", _alpha),
        dropout=_dropout(fields, "lora_dropout" if is_lora else "vera_dropout"),
        targets=_names(fields, "target_modules"),
        excluded=_names(fields, "exclude_modules") if fields.get("exclude_modules") else (),
        numbers=_numbers(fields),
        stacks=_stacks(fields),
        saved=_expressions(fields, "modules_to_save"),
        is_rslora=bool(fields.get("use_rslora", False)),
        has_lengths=bool(fields.get("use_dora", False)),
        has_biases=fields.get("bias", "none") != "none",
    )


def _check_known(fields: Fields) -> None:
    """Raise ValueError for a field that changes what is computed and is not known here."""
    for name in fields:
        # An option that is off does nothing, whatever it is.
        if name not in IDLE | READ and fields[name] not in (None, False, [], {}, ""):
            raise ValueError(
                f"{CONFIG}: {name}={shown(fields[name])} is a part of an adapter that is not known "
                "here: it would compute something else"
            )
    biases = ("none", f"{fields['peft_type'].lower()}_only")
    if fields.get("bias", "none") not in biases:
        raise ValueError(f"{CONFIG}: bias={shown(fields['bias'])}, and one of {biases} can be read")
    if not fields.get("save_projection", True):
        raise ValueError(
            f"{CONFIG}: save_projection=False, so the shared factors are not in the file: have it "
            "saved with save_projection=True"
        )
    start = fields.get("init_lora_weights", True)
    if start not in STARTS:
        raise ValueError(
            f"{CONFIG}: init_lora_weights={shown(start)}, with which PEFT changes the base when it "
            "loads the adapter. Have it saved by `save_pretrained` with "
            "path_initial_model_for_weight_conversion, as an adapter of the base as it was"
        )
    for name in ("use_rslora", "use_dora"):
        if not isinstance(fields.get(name, False), bool):
            fields.refuse(name, fields[name], "true or false")


def _alpha(fields: Fields, name: str) -> float:
    value = fields.number(name)
    if value == 0:
        fields.refuse(name, value, "another number: at 0 the adapter does nothing")
    return value


def _dropout(fields: Fields, name: str) -> float:
    value = fields.number(name, 0, 1) if name in fields else 0.0
    if value == 1:
        fields.refuse(name, value, "a number below 1")
    return value


def _pattern(fields: Fields, name: str, read: Any) -> Patterns:
    if not fields.get(name):
        return ()
    own = fields.fields(name)
    if len(own) > MOST_PATTERNS:
        raise ValueError(f"{own.place} has {len(own)} patterns, and no config has")
    for key in own:
        check_pattern(own.place, key)
    return compiled({key: read(own, key) for key in own})


def _names(fields: Fields, name: str) -> str | tuple[str, ...]:
    value = fields[name]
    if not isinstance(value, str):
        return tuple(fields.texts(name) if value else ())
    if value == "all-linear":
        fields.refuse(name, value, "the names of modules, as PEFT saves them")
    check_pattern(f"{CONFIG}.{name}", value)
    return value


def _numbers(fields: Fields) -> tuple[int, ...]:
    name = "layers_to_transform"
    value = fields.get(name)
    if value is None or isinstance(value, list):
        return fields.integers(name, len(value)) if value else ()
    return (fields.integer(name),)


def _expressions(fields: Fields, name: str) -> tuple[str, ...]:
    """Regular expressions, mostly plain names."""
    texts = fields.texts(name) if fields.get(name) else []
    for text in texts:
        check_pattern(f"{CONFIG}.{name}", text)
    return tuple(texts)


def _stacks(fields: Fields) -> tuple[str, ...]:
    name = "layers_pattern"
    if not isinstance(fields.get(name), str):
        return _expressions(fields, name)
    check_pattern(f"{CONFIG}.{name}", fields.text(name))
    return (fields.text(name),) if fields[name] else ()


def check_targets(config: GivenConfig, names: Mapping[str, bool], layers: set[str]) -> None:
    """Raise ValueError unless the file has adapters of the layers that the config names.

    Args:
        names: of all modules, and whether each holds a weight that can be adapted.
        layers: that the file has adapters of.
    """
    found = {name for name in config.adapted(names) if names[name]}
    missing, surplus = sorted(found - layers), sorted(layers - found)
    if surplus:
        raise ValueError(
            f"the file has an adapter of '{surplus[0]}', which {CONFIG} does not name in "
            "target_modules, or excludes"
        )
    if missing:
        raise ValueError(
            f"the file has no adapter of layer '{missing[0]}', which target_modules in {CONFIG} "
            "names: it is another model's, or was saved in part"
        )
