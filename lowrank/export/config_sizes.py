"""The layers and sizes that the config of a model of transformers says, and those that it has."""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import nn

from lowrank.model.contents import names_of
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.host import Host
from lowrank.model.shared_memory import identity

# Of an encoder and a decoder with a size each.
MOST_FIELDS = 2


@dataclass(frozen=True)
class Misfit:
    """A parameter of another shape than that which the config says.

    Attributes:
        name: of the parameter.
        own: its shape in the model.
        said: by the config; None if no model of it has such a parameter.
    """

    name: str
    own: tuple[int, ...]
    said: tuple[int, ...] | None


def check_config(model: nn.Module, exchanged: Collection[str] = ()) -> list[str]:
    """Compare the config of a model of transformers with the model.

    What is built from a config that says other sizes, or makes other layers, does not take the
    weights, or draws some of its own.

    Args:
        exchanged: names of layers that the reader puts in the place of the config's, whatever
            those are.

    Returns:
        The parameters of parts that are None here, such as the pooler of an encoder: the code of
        the class does without them, and a reader draws them.

    Raises:
        ValueError: it says other sizes than the model has, or makes other layers.
    """
    made = _made(model)
    if made is None:
        return []
    own, said = _shapes(model), _shapes(made)
    _check_sizes(model, [one for one in _misfits(own, said) if one.said is not None])
    # The tensors of opened modules, such as experts, have other names there.
    modules = model.named_modules(remove_duplicate=False)
    opened = [name for name, module in modules if isinstance(module, Host)]
    inside = tuple(f"{name}." for name in (*opened, *exchanged))
    biases = {f"{name}.bias" for name in exchanged}  # The reader takes those of the config's layer.
    drawn = [name for name in said if _is_left_out(model, name)]
    lacking, more = (
        [n for n in names if n not in others and (n in biases or not n.startswith(inside))]
        for names, others in ((said, {*own, *drawn}), (own, said))
    )
    if lacking or more:
        what = [f"has {names_of(lacking)} too"] if lacking else []
        what += [f"has no {names_of(more)}"] if more else []
        raise ValueError(
            f"a {type(model).__name__} of this config {' and '.join(what)}, which a reader would "
            "draw at random or leave out: let the config say what the model has, as "
            "num_hidden_layers does; format='plain' holds other modules, and code=True of 'hf' "
            "compressed layers whose weight is made otherwise there"
        )
    return drawn


def check_ties(model: nn.Module, exchanged: Collection[str] = ()) -> None:
    """Raise ValueError if parameters are one tensor here, and several in what the config makes, or
    the other way round: a reader would draw one at random, or lose one.

    Args:
        exchanged: as in `check_config`; these may be tied in any way.
    """
    made = _made(model)
    if made is None:
        return
    own, said = _tied(model), _tied(made)
    known = own.keys() & said.keys()
    for name in sorted(known):
        here, there = own[name] & known, said[name] & known
        if here == there or any(one.rpartition(".")[0] in exchanged for one in here | there):
            continue
        is_tied = len(here) > len(there)
        raise ValueError(
            f"{names_of(sorted(here | there))} are {'one tensor' if is_tied else 'several'} here, "
            f"and {'several' if is_tied else 'one'} in a {type(model).__name__} of this config, as "
            "which a reader would take them: let the config say it, as "
            f"model.config.tie_word_embeddings = {is_tied} does of a head, or "
            f"{'give each memory of its own (`.clone()`)' if is_tied else 'tie them'}"
        )


def _is_left_out(model: nn.Module, name: str) -> bool:
    """Whether a parameter would be inside of a module in whose place there is None."""
    module: Any = model
    for part in name.split(".")[:-1]:
        module = getattr(module, part, model)
        if module is None or module is model:
            break
    return module is None


def _check_sizes(model: nn.Module, found: list[Misfit]) -> None:
    if found:
        first = found[0]
        raise ValueError(
            f"a {type(model).__name__} of this config has other sizes than this one, and so a file "
            f"with that config would not load: {names_of([one.name for one in found])}; the first "
            f"is {first.own} here and {first.said} there. The config has one size for all layers, "
            "and these may have been cut to different ones: format='plain' holds each layer as it "
            "is"
        )


def fit_config(model: nn.Module) -> None:
    """Let the config of a model say the sizes of its layers, where fields of it can.

    A field is changed, in a config that is the model's alone then, if the model that it makes has
    the shapes of this one and no smaller choice of fields does.
    """
    made = _made(model)
    found = [] if made is None else _misfits(_shapes(model), _shapes(made))
    if not found:
        return
    config: Any = model.config
    new = _fitting(model, config, found)
    if new is not None:
        for module in model.modules():
            if getattr(module, "config", None) is config:
                module.config = new


def _has_config(model: nn.Module) -> bool:
    if "transformers" not in sys.modules:
        return False
    from transformers import PreTrainedModel

    return isinstance(model, PreTrainedModel)


def _made(model: nn.Module, config: Any = None) -> nn.Module | None:
    """What a config makes, by default the model's own, on the meta device; None if the model has
    none, or nothing can be built from it alone."""
    if not _has_config(model):
        return None
    cls: Any = type(model)
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return cls._from_config(copy.deepcopy(config or model.config))
    except Exception:  # Code of hundreds of models, of others too.
        return None


def _misfits(
    shapes: Mapping[str, tuple[int, ...]], said: Mapping[str, tuple[int, ...]]
) -> list[Misfit]:
    return [
        Misfit(name, own, said.get(name)) for name, own in shapes.items() if said.get(name) != own
    ]


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of parameters; of a compressed layer that of its weight."""
    found: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, FactorizedLayer):
            with torch.device("meta"):
                weight = module.as_weight(torch.empty(module.factorization.shape))
            found[f"{name}.{module.weight_name}"] = tuple(weight.shape)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if ".factorization." not in f".{name}":
            found[name] = tuple(parameter.shape)
    return found


def _tied(model: nn.Module) -> dict[str, frozenset[str]]:
    """By the name of each weight, all names of it."""
    memory: dict[str, Hashable] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, FactorizedLayer):
            memory[f"{name}.{module.weight_name}"] = id(module.factorization)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if ".factorization." not in f".{name}":
            memory[name] = id(parameter) if parameter.is_meta else identity(parameter)
    names: dict[Hashable, list[str]] = {}
    for name, one in memory.items():
        names.setdefault(one, []).append(name)
    return {name: frozenset(names[one]) for name, one in memory.items()}


def _fitting(model: nn.Module, config: Any, found: list[Misfit]) -> Any:
    """A config that says the sizes; None if there is none."""
    sizes: dict[int, set[int]] = {}
    for one in found:
        if one.said is None or len(one.said) != len(one.own):
            return None
        for own, said in zip(one.own, one.said, strict=True):
            if own != said:
                sizes.setdefault(said, set()).add(own)
    if any(len(own) > 1 for own in sizes.values()):
        return None
    shapes = _shapes(model)
    for names in _choices(config, sizes):
        new = copy.deepcopy(config)
        for name in names:
            (size,) = sizes[getattr(config, name)]
            setattr(new, name, size)
        made = _made(model, new)
        if made is not None and not _misfits(shapes, _shapes(made)):
            return new
    return None


def _choices(config: Any, sizes: Mapping[int, Any]) -> Iterator[tuple[str, ...]]:
    """Choices of fields that have these sizes now, those of few fields first."""
    fields = [name for name, value in config.to_dict().items() if type(value) is int]
    fields = [name for name in fields if getattr(config, name, None) in sizes]
    for count in range(1, MOST_FIELDS + 1):
        yield from combinations(fields, count)
