"""Files of a model for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowrank.export.checkpoint import check_stored_model
from lowrank.export.formats import format_named
from lowrank.export.formats.format import Format
from lowrank.export.formats.plan import ExportPlan, check_multiplied_out
from lowrank.files.atomic import check_new, new_folder
from lowrank.files.extras import need
from lowrank.files.paths import as_path
from lowrank.numerics.checks import check_flag


def plan_export(model: nn.Module, format: str | Format, **options: Any) -> ExportPlan:
    """What `export_model` would write: which layers keep their compressed form, and how many bytes.

    Raises:
        ValueError: as `export_model`, but for layers that would be multiplied out.
    """
    check_stored_model(model)
    return as_format(format, options).plan(model)


@torch.no_grad()
def export_model(
    model: nn.Module,
    format: str | Format,
    folder: str | Path,
    *,
    multiply_out: bool = False,
    **options: Any,
) -> ExportPlan:
    """Write a compressed (or dense) model into a new folder, as another tool loads it.

    Args:
        model: not changed.
        format: a name of `lowrank.export.formats.FORMATS`, or a format with its options.
        folder: made, whole or not at all; an empty one may be there.
        multiply_out: whether layers whose form the format does not hold may be written as dense
            matrices.
        options: the fields of the format.

    Returns:
        What was written.

    Raises:
        ValueError: a format that does not exist, options that it does not take, a model that it
            does not hold, or with tensors that no file does; layers that it does not hold, without
            `multiply_out`; a folder that is there. Nothing is written then.
        MissingExtra: a library that it needs is not installed.
        OSError: a file cannot be written.
    """
    target = as_path(folder, "folder")
    check_flag("multiply_out", multiply_out)
    check_stored_model(model)
    chosen = as_format(format, options)
    check_new(target)
    plan = chosen.plan(model)
    check_multiplied_out(plan, multiply_out or chosen.is_dense)
    with new_folder(target) as inside:
        chosen.write(model, plan, inside)
    return plan


def as_format(format: str | Format, options: dict[str, Any]) -> Format:
    """A format of a name and options, or as it is given; its libraries are installed.

    Raises:
        ValueError: there is none, or options that it does not take.
        MissingExtra: a library that it needs is not installed.
    """
    if isinstance(format, Format):
        if options:
            raise ValueError(f"options {sorted(options)} are fields of the format: give it them")
        chosen = format
    elif isinstance(format, str):
        chosen = format_named(format, **options)
    else:
        raise ValueError(f"format={format!r} must be a name, or a format of this library")
    need(f"an export to {chosen.name}", *chosen.libraries)
    return chosen
