"""Building of models whose parameters take no memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules import module as registration
from torch.utils.weak import WeakIdKeyDictionary

# Modules for each parameter, at most: many have none.
MODULES = 32
# Bytes that buffers of the smallest models take, such as masks of positions.
SMALL = 2**26


@contextmanager
def limited(most: int) -> Iterator[None]:
    """Raise ValueError where this thread gives modules more than `most` parameters inside.

    A config of a few bytes can ask for billions of layers, which take memory even without numbers.
    """
    left = {"parameters": most, "modules": MODULES * most}

    def count(what: str) -> None:
        left[what] -= 1
        if left[what] < 0:
            raise ValueError(f"it has more {what} than the file can be of")

    with (
        _each(
            registration.register_module_parameter_registration_hook, lambda _: count("parameters")
        ),
        _each(registration.register_module_module_registration_hook, lambda _: count("modules")),
    ):
        yield


@contextmanager
def on_meta() -> Iterator[None]:
    """Put the parameters that this thread gives modules inside on the meta device, and no buffers.

    What a module computes for its buffers is then there, in contrast to a model that is built on
    the meta device.
    """
    made = WeakIdKeyDictionary()

    def blank(parameter: Any) -> Any:
        if parameter is None or parameter.is_meta:
            return None
        if parameter not in made:
            own = parameter.detach().to("meta")
            made[parameter] = nn.Parameter(own, requires_grad=parameter.requires_grad)
        return made[parameter]

    with _each(registration.register_module_parameter_registration_hook, blank):
        yield


def check_buffers(model: nn.Module, most: int) -> None:
    """Raise ValueError if the buffers that no file holds take far more than `most` bytes."""
    stored = model.state_dict().keys()
    derived = sum(b.nbytes for name, b in model.named_buffers() if name not in stored)
    if derived > most + SMALL:
        raise ValueError(f"its model would take {derived} bytes for buffers that no file holds")


@contextmanager
def _each(register: Callable[..., Any], act: Callable[[Any], Any]) -> Iterator[None]:
    """Call `act` with what this thread registers inside."""
    own = threading.get_ident()

    def hook(_: nn.Module, __: str, value: Any) -> Any:
        return act(value) if threading.get_ident() == own else None

    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()
