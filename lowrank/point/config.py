"""Configs of the objects of a point, as its record holds them."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

import torch


def described(value: Any, place: str) -> Any:
    """A value as plain data from which it can be made again, like a config.

    A dataclass becomes the path of its class (``_target_``) and its fields; a class or a function
    becomes its path with ``_partial_``; a `functools.partial` becomes path, ``_partial_`` and its
    arguments.

    Args:
        place: where the value is, for errors.

    Raises:
        ValueError: a value inside is none of these and no plain data; the text names its place.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral | Real):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, torch.dtype | torch.device | PurePath):
        return str(value).removeprefix("torch.")
    if isinstance(value, Mapping):
        return {str(name): described(one, f"{place}.{name}") for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [described(one, f"{place}.{number}") for number, one in enumerate(value)]
    if isinstance(value, functools.partial):
        own = {} if not value.args else {"_args_": described(value.args, place)}
        return described(value.func, place) | own | described(value.keywords, place)
    if isinstance(value, type) or inspect.isfunction(value):
        if "<" in value.__qualname__:
            raise ValueError(
                f"{place} is {value.__qualname__}, which cannot be found again by its name: define "
                "it at the top of a module, or give `config`"
            )
        return {"_target_": _path(value), "_partial_": True}
    if not dataclasses.is_dataclass(value):
        raise ValueError(
            f"{place} is a {type(value).__name__}, which does not say how to make it again: make "
            f"its class a dataclass, or give `config`. It is {value!r:.80}"
        )
    names = [field.name for field in dataclasses.fields(value) if field.init]
    fields = {name: described(getattr(value, name), f"{place}.{name}") for name in names}
    return {"_target_": _path(type(value))} | fields


def _path(named: Any) -> str:
    """The path of a class or a function: in the package of its module, if that exports it."""
    module, name = named.__module__, named.__qualname__
    package = module.rpartition(".")[0]
    if package and vars(importlib.import_module(package)).get(name) is named:
        return f"{package}.{name}"
    return f"{module}.{name}"
