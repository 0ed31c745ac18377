"""The compressed model of a point beside its record, in our file and in the format of another
tool."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from lowrank.export.checkpoint import save
from lowrank.export.formats.format import Format
from lowrank.export.model_files import export_model
from lowrank.files.atomic import temporary_in
from lowrank.files.tensor_files import content_hash
from lowrank.records.companions import MODEL, OF_EXPORT, exported_name, model_name, remove


def kept_beside(model: nn.Module, folder: Path, key: str, export: Format | None) -> dict[str, Any]:
    """Save a model beside the record of its point; the fields of the record about it.

    Args:
        key: of the point.
        export: a format in which it is written too.

    Raises:
        ValueError: the format does not hold the model at all.
        OSError: a file cannot be written.
    """
    written = temporary_in(folder, key)
    try:
        save(model, written)
        name = model_name(key, content_hash(written))
        exported = {} if export is None else _exported(model, folder, name, export)
        os.replace(written, folder / name)
    finally:
        written.unlink(missing_ok=True)
    return {MODEL.field: name, **exported}


def _exported(model: nn.Module, folder: Path, name: str, export: Format) -> dict[str, Any]:
    own = exported_name(name, export.name)
    # Of an equal model that was measured before: it may have other options.
    remove(folder / own)
    plan = export_model(model, export, folder / own, multiply_out=True)
    values = (own, export.name, plan.nbytes, len(plan.multiplied_out))
    return dict(zip(OF_EXPORT, values, strict=True))
