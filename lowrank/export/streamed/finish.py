"""The end of a compression on disk: the index of the parts, and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowrank.compression.layer_report import LayerReport
from lowrank.export.architecture import architecture_of
from lowrank.export.checkpoint import FORMAT
from lowrank.export.skeleton import Layer, Skeleton
from lowrank.export.streamed.report import CompressedCheckpoint
from lowrank.export.streamed.work import CheckpointWork
from lowrank.files.fields import Fields
from lowrank.files.from_json import built
from lowrank.files.tensor_files import TensorFile
from lowrank.files.tensor_folders import write_index
from lowrank.model.contents import contents
from lowrank.model.shared_memory import identity


def finished(work: CheckpointWork, parts: Mapping[str, TensorFile]) -> CompressedCheckpoint:
    """Write the index of all parts, without which the folder is none that can be loaded.

    Args:
        parts: their files, by name.

    Raises:
        ValueError: no weight could follow one of the caller's rules.
        OSError: it cannot be written.
    """
    for part in work.parts:
        header = parts[part.file].header
        if part.site is not None and "left" in header:
            work.walk.fit.left[part.site.name] = ValueError(header.text("left"))
    work.walk.fit.check()
    made = [file.header for file in parts.values() if "layer" in file.header]
    model = work.source.model
    header = {
        "format": FORMAT,
        "request": work.hash,
        "layers": [fields["layer"] for fields in made],
        **_names(work, made),
        "views": {},
        "extra": {},
        "architecture": _architecture(model),
    }
    write_index(work.request.target, "model", header, parts)
    return reported(work, parts)


def reported(work: CheckpointWork, parts: Mapping[str, TensorFile]) -> CompressedCheckpoint:
    """The report of a folder that has its index."""
    headers = [file.header for file in parts.values()]
    distinct = {identity(p): p.numel() for p in work.source.model.parameters()}
    return CompressedCheckpoint(
        work.request.target,
        [built(LayerReport, one.fields("report")) for one in headers if "report" in one],
        work.skipped,
        [
            (part.site.name, parts[part.file].header.text("left"))
            for part in work.parts
            if part.site is not None and "left" in parts[part.file].header
        ],
        sum(distinct.values()),
        sum(sum(file.stored_bytes().values()) for file in parts.values()),
    )


def _architecture(model: Any) -> dict[str, Any] | None:
    found = architecture_of(model)
    return None if found is None else found.to_json()


def _names(work: CheckpointWork, made: list[Fields]) -> dict[str, Any]:
    """Which names are of one tensor, and which of parameters that are not trained."""
    count = 1 + max((len(file["layer"]["modules"]) for file in made), default=0)
    layers = [Layer.of(one.fields("layer"), 2**16 * count) for one in made]
    inside = {name: first for one in made for name, first in one.fields("same").value.items()}
    blank = Skeleton(work.source.model).with_layers(layers, {})
    same = {name: inside.get(first, first) for name, first in contents(blank).same.items()}
    names = dict(blank.named_parameters())
    rest = [n for n, p in work.source.model.named_parameters() if not p.requires_grad]
    frozen = [name for name in rest if name in names]
    frozen += [name for one in made for name in one.texts("frozen")]
    return {"same": same | inside, "frozen": sorted(frozen)}
