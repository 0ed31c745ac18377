"""``adapter_config.json`` of a folder, checked: what of it is known, and what it says of layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowrank.export.peft.config import CONFIG
from lowrank.export.peft.matching import (
    Patterns,
    barred,
    check_pattern,
    number_of,
    targeted,
    value_of,
)
from lowrank.export.peft.types import TYPES, AdapterType
from lowrank.files.fields import Fields, parse, shown

# More bytes than any config has.
LONGEST = 2**24
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
STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica", None)
ALL = "all"


@dataclass(frozen=True)
class GivenConfig:
    """A config of LoRA, DoRA, AdaLoRA or VeRA.

    Attributes:
        kind: the type of the adapter, a key of `TYPES`.
        targets, excluded: a regular expression, or ends of names.
        numbers: of the layers with adapters; all if there are none.
        stacks: regular expressions of the names before those numbers; any if there are none.
        saved: the ends of names of the modules that are saved whole.
        has_biases: whether the biases of the adapted layers are in the file.
        has_all_biases: whether those of all other modules are, too.
        version: of PEFT, as the config says it.
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
    has_all_biases: bool
    version: Any

    def adapted(self, names: Collection[str]) -> set[str]:
        """Which of these modules PEFT adapts."""
        found = targeted(self.targets, names)
        if self.numbers:
            found = [name for name in found if number_of(name, self.stacks) in self.numbers]
        return {*found}.difference(targeted(self.excluded, names), barred(self.saved, found))

    def rank_of(self, name: str) -> int:
        """The rank that PEFT gives a layer."""
        return value_of(self.ranks, name, self.rank)

    def alpha_of(self, name: str) -> float:
        """The alpha that PEFT gives a layer."""
        return value_of(self.alphas, name, self.alpha)

    def scale_of(self, name: str) -> float:
        """The factor of its adapter."""
        own = self.alpha_of(name), self.rank_of(name)
        return TYPES[self.kind].scale(*own, self.rank, self.is_rslora)


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
    if not isinstance(kind, str) or kind not in TYPES:
        raise ValueError(
            f"{CONFIG}: peft_type is {shown(kind)}, and one of {tuple(TYPES)} can be read"
        )
    known = TYPES[kind]
    _check_known(fields, known)
    bias = fields.get("bias", "none")
    return GivenConfig(
        kind=kind,
        rank=fields.integer(known.rank, least=1),
        alpha=known.alpha(fields),
        ranks=known.ranks(fields),
        alphas=known.alphas(fields),
        dropout=_dropout(fields, known.dropout),
        targets=_names(fields, "target_modules"),
        excluded=_names(fields, "exclude_modules") if fields.get("exclude_modules") else (),
        numbers=_numbers(fields),
        stacks=_stacks(fields),
        saved=_expressions(fields, "modules_to_save"),
        is_rslora=bool(fields.get("use_rslora", False)),
        has_lengths=bool(fields.get("use_dora", False)),
        has_biases=bias != "none",
        has_all_biases=bias == ALL,
        version=fields.get("peft_version"),
    )


def _check_known(fields: Fields, known: AdapterType) -> None:
    """Raise ValueError for a field that changes what is computed and is not known here."""
    for name in fields:
        # An option that is off does nothing, whatever it is.
        is_read = name in (IDLE | READ | known.idle | {known.rank}) - known.unknown
        if not is_read and fields[name] not in (None, False, [], {}, ""):
            raise ValueError(
                f"{CONFIG}: {name}={shown(fields[name])} is a part of an adapter that is not known "
                "here: it would compute something else"
            )
    biases = ("none", ALL, known.biases)
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
            f"{CONFIG}: init_lora_weights={shown(start)}, a start that changes the base, or is not "
            f"known: those that leave it as it is are {STARTS}. Have it saved by `save_pretrained` "
            "with path_initial_model_for_weight_conversion, as an adapter of the base as it was"
        )
    for name in ("use_rslora", "use_dora"):
        if not isinstance(fields.get(name, False), bool):
            fields.refuse(name, fields[name], "true or false")


def _dropout(fields: Fields, name: str) -> float:
    value = fields.number(name, 0, 1) if name in fields else 0.0
    if value == 1:
        fields.refuse(name, value, "a number below 1")
    return value


def _names(fields: Fields, name: str) -> str | tuple[str, ...]:
    value = fields[name]
    if not isinstance(value, str):
        return tuple(fields.texts(name) if value else ())
    if value.lower() == "all-linear":
        fields.refuse(name, value, "the names of modules, as PEFT saves them")
    check_pattern(f"{CONFIG}.{name}", value)
    return value


def _numbers(fields: Fields) -> tuple[int, ...]:
    name = "layers_to_transform"
    value = fields.get(name)
    if value is None or value == []:
        if fields.get("layers_pattern"):
            fields.refuse("layers_pattern", fields["layers_pattern"], f"left out without {name}")
        return ()
    if isinstance(fields["target_modules"], str):
        fields.refuse(name, value, "left out where target_modules is a regular expression")
    return fields.integers(name, len(value)) if isinstance(value, list) else (fields.integer(name),)


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


def check_targets(
    config: GivenConfig, names: Mapping[str, bool], owners: Mapping[str, str], layers: set[str]
) -> None:
    """Raise ValueError unless the file has adapters of the layers that the config names.

    Args:
        names: of all modules, and whether each holds a weight that can be adapted.
        owners: of layers that are adapted with another one, the name of that.
        layers: that the file has adapters of.
    """
    found = {name for name in config.adapted(names) if names[name]}
    found |= {name for name, owner in owners.items() if owner in found}
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
