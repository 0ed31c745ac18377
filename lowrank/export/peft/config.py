"""``adapter_config.json``, as PEFT reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn

from lowrank.export.peft.layer import AdaptedLayer
from lowrank.export.peft.matching import check_saved, exactly, targeted, targets_for
from lowrank.model.layers import TransformersConv1DRule, rule_for

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def shared_fields(
    base: nn.Module, layers: Sequence[AdaptedLayer], path: str | None, saved: Sequence[str]
) -> dict[str, Any]:
    """The fields that configs of every type have.

    Args:
        path: of the base, for programs that load it by themselves.
        saved: the modules that are saved whole.

    Raises:
        ValueError: PEFT would take other modules too, whatever stands there; dropout that differs.
    """
    names = [name for name, _ in base.named_modules()]
    wanted = [layer.name for layer in layers]
    targets = targets_for(wanted, names)
    assert set(targeted(targets, names)) == set(wanted)
    check_saved(saved, wanted, names)
    check_once(base, wanted)
    kinds = [type(rule_for(layer.module)) for layer in layers]
    return {
        "task_type": None,
        "base_model_name_or_path": path,
        "revision": None,
        "inference_mode": True,
        "target_modules": targets,
        "modules_to_save": list(saved) or None,
        "fan_in_fan_out": TransformersConv1DRule in kinds,
    }


def lora_fields(layers: Sequence[AdaptedLayer], rslora: bool, biases: bool) -> dict[str, Any]:
    """The fields of LoRA and DoRA: the rank and alpha that most layers have, and the others'.

    Args:
        rslora: whether scales are written as alpha/√rank.
        biases: whether the biases of the layers are in the file.

    Raises:
        ValueError: dropout that differs, or lengths that only some layers have.
    """
    dropout = agreed("dropout", {layer.name: layer.term.dropout for layer in layers})
    has_lengths = agreed("a DoRA", {layer.name: layer.lengths is not None for layer in layers})
    ranks = {layer.name: layer.rank for layer in layers}
    alphas = {layer.name: layer.alpha(rslora) for layer in layers}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "bias": "lora_only" if biases else "none",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {exactly(n): value for n, value in ranks.items() if value != rank},
        "alpha_pattern": {exactly(n): value for n, value in alphas.items() if value != alpha},
        "lora_dropout": dropout,
        "use_rslora": rslora,
        "use_dora": has_lengths,
        "init_lora_weights": True,
    }


def agreed(what: str, values: dict[str, Any]) -> Any:
    """The one value that all layers have.

    Raises:
        ValueError: they differ.
    """
    first, value = next(iter(values.items()))
    other = next((name for name, one in values.items() if one != value), None)
    if other is not None:
        raise ValueError(
            f"layer '{first}' has {what} {value} and layer '{other}' {values[other]}, and a folder "
            "of PEFT has one for all: export them apart, by other models"
        )
    return value


def check_once(base: nn.Module, wanted: Sequence[str]) -> None:
    """Raise ValueError for a module under two names: PEFT adapts it under the first one only."""
    names: dict[int, list[str]] = {}
    for name, module in base.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    for name in wanted:
        if not name:
            raise ValueError("the model is the adapted layer itself, and PEFT adapts parts of one")
        same = names[id(base.get_submodule(name))]
        if len(same) > 1:
            raise ValueError(
                f"layer '{name}' is one module under the names {same}, and PEFT would adapt it "
                "under the first one only"
            )
