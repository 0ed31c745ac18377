"""Formats of files that other tools load: one module each, and one line here."""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import Any

from lowrank.export.formats.format import Format

# Name of a format → its module and class. Imported when it is asked for.
FORMATS = {
    "dense": ("dense", "DenseTensors"),
    "plain": ("plain", "PlainModules"),
    "hf": ("hf.folder", "HuggingFaceFolder"),
    "onnx": ("onnx.file", "Onnx"),
    "torch_export": ("torch_export", "TorchExport"),
    "gguf": ("gguf", "Gguf"),
}


def format_named(name: str, **options: Any) -> Format:
    """The format of a name, with its options.

    Raises:
        ValueError: there is no such format or option, or a value that it does not take.
    """
    cls, known = format_class(name), options_of(name)
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise ValueError(f"format={name!r} has no options {unknown}: it has {known or 'none'}")
    return cls(**options)


def options_of(name: str) -> list[str]:
    """The options of a format.

    Raises:
        ValueError: there is no such format.
    """
    return [field.name for field in fields(format_class(name))]  # type: ignore[arg-type]


def format_class(name: str) -> type[Format]:
    """The class of a format; its fields are the options.

    Raises:
        ValueError: there is no such format.
    """
    if name not in FORMATS:
        raise ValueError(f"format={name!r} does not exist: give one of {sorted(FORMATS)}")
    module, cls = FORMATS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), cls)
