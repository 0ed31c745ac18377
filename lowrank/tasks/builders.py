"""Networks from builders: callables of any package, with their arguments."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn


def built(builder: str, arguments: Mapping[str, Any], task: str) -> nn.Module:
    """The network that a builder makes.

    Args:
        builder: ``package.module:function`` or a class.
        task: the name of the task, for errors.

    Raises:
        ValueError: the builder cannot be imported, does not take the arguments, fails, or makes no
            network.
    """
    build = import_builder(builder)
    try:
        inspect.signature(build).bind(**arguments)
    # A ValueError: Python has no signature for some builtins.
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"builder {builder} does not take arguments={dict(arguments)}: {error}"
        ) from error
    try:
        model = build(**arguments)
    except Exception as error:  # A builder of a user may raise anything.
        raise ValueError(
            f"builder {builder} of task {task!r} fails with "
            f"arguments={dict(arguments)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"builder {builder} made a {type(model).__name__}, no nn.Module")
    return model


def bound(path: str, arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """The function at ``package.module:name``, with named arguments.

    Raises:
        ValueError: there is none.
    """
    return functools.partial(import_builder(path), **arguments)


def import_builder(path: str) -> Callable[..., Any]:
    """The callable at ``package.module:name``.

    Raises:
        ValueError: there is none.
    """
    module, colon, name = path.partition(":")
    try:
        if not colon:
            raise ImportError("there is no colon in it")
        builder = getattr(importlib.import_module(module), name)
    except Exception as error:  # A module of a user may raise anything.
        raise ValueError(
            f"builder={path!r} cannot be imported ({type(error).__name__}: {error}); give "
            "package.module:function, with the package installed or in the working directory"
        ) from error
    if not callable(builder):
        raise ValueError(f"builder={path!r} is a {type(builder).__name__} and cannot be called")
    return builder
