"""Optimizers of a training, their parameter groups and the bytes of their state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowrank.factorizations import Factorization
from lowrank.tasks.training.recipe import OPTIMIZERS, Recipe


def optimizer_for(
    recipe: Recipe, model: nn.Module, parameters: Sequence[nn.Parameter], left_rate: float = 1.0
) -> Optimizer:
    """The optimizer of a recipe, with the left factors of the model in a group of their own if
    their rate is another.

    Args:
        left_rate: the rate of the left factors, relative to that of the recipe.

    Raises:
        ValueError: another rate without effect (`check_left_rate`), or parameters of float16 for
            AdamW.
    """
    check_left_rate(model, left_rate)
    if recipe.optimizer == "adamw" and any(p.dtype == torch.float16 for p in parameters):
        # Squares of gradients below 2e-4, and the 1e-8 beside their root, are 0 in float16.
        raise ValueError(
            "AdamW divides 0 by 0 in float16: take a model of bfloat16 or float32, or "
            "optimizer='sgd'"
        )
    lefts = {id(parameter) for parameter in left_parameters(model)} if left_rate != 1 else set()
    left = [p for p in parameters if id(p) in lefts]
    rest = [p for p in parameters if id(p) not in lefts]
    faster = {"params": left, "lr": left_rate * recipe.learning_rate}
    groups = [group for group in (faster, {"params": rest}) if group["params"]]
    return OPTIMIZERS[recipe.optimizer](recipe, groups)


# The tensors that each keeps for a parameter, where it keeps any.
KEPT: dict[type[Optimizer], set[str]] = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
}


def check_left_rate(model: nn.Module, left_rate: float) -> None:
    """Check that a rate of left factors has an effect, or is not asked for.

    A model without factorizations, the dense baseline, is trained by one rate.

    Raises:
        ValueError: it has none.
    """
    is_dense = not any(isinstance(part, Factorization) for part in model.modules())
    if left_rate == 1 or is_dense or any(p.requires_grad for p in left_parameters(model)):
        return
    raise ValueError(
        f"left_rate={left_rate} has no effect: no left factor of a product is trained in this "
        "model; leave it out, or take a method such as LoRA(rank=8, alpha=16)"
    )


def left_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the left factors in a model's factorizations."""
    forms = [module for module in model.modules() if isinstance(module, Factorization)]
    lefts = [left for form in forms if (left := form.left_factor()) is not None]
    return [parameter for left in lefts for parameter in left.parameters()]


def state_bytes(optimizer: Optimizer) -> int:
    """The bytes of what an optimizer keeps for its parameters, such as momenta."""
    kept = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in kept if isinstance(value, Tensor))


def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """What an optimizer keeps, as ``optimizer.<number of the parameter>.<name>``."""
    return {
        f"optimizer.{number}.{name}": value
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def check_state_tensors(optimizer: Optimizer, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless tensors of these names and shapes are what an optimizer keeps."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found: dict[int, set[str]] = {}
    for name, shape in shapes.items():
        start, number, key = [*name.split("."), "", ""][:3]
        is_known = start == "optimizer" and number.isdecimal() and int(number) < len(parameters)
        own = {(), tuple(parameters[int(number)].shape)} if is_known else set()
        if shape not in own or key not in KEPT[type(optimizer)]:
            raise ValueError(f"it has {name!r} of shape {shape}, which this training has not")
        found.setdefault(int(number), set()).add(key)
    if any(keys != KEPT[type(optimizer)] for keys in found.values()):
        raise ValueError("it lacks a part of the optimizer's state")


def load_state_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer what it kept; tensors of other names are passed over."""
    values: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            values.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": values})
