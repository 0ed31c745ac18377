"""The model card of an exported folder, from the record of its measured point and its plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lowrank.export.formats.plan import ExportPlan
from lowrank.files.fields import FieldError, Fields, parse
from lowrank.files.paths import as_path

CARD = "README.md"
HEAD = re.compile(r"\A---\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
# Of a licence, or none.
NAME = re.compile(r"[\w.-]*", re.ASCII)
LICENCE = re.compile(r"^license:[ \t]*['\"]?([\w.-]+)", re.MULTILINE)


def read_record(path: str | Path) -> Fields:
    """A record of `lowrank.measure_point`, or of a sweep.

    Raises:
        ValueError: the file holds none, or lacks what a card says.
        OSError: it cannot be read.
    """
    file = as_path(path, "record")
    try:
        record = Fields(parse(file.read_bytes(), "the text", numbers=False), "the record")
        for name in ("method", "task"):
            record.text(name)
        for name in ("ratios", "dense", "compressed"):
            record.fields(name)
        record.each("metrics")
    except FieldError as error:
        raise ValueError(f"record={str(file)!r} is no record of a measured point: {error}") from (
            error
        )
    return record


def licence_of(model: nn.Module) -> str:
    """The licence that the card of the base names; empty if there is none at hand."""
    source = getattr(model, "name_or_path", "")
    card = Path(source, CARD) if source else None
    if card is None or not card.is_file():
        return ""
    head = HEAD.match(card.read_text(encoding="utf-8", errors="replace"))
    found = LICENCE.search(head[1]) if head else None
    return found[1] if found else ""


def card(model: nn.Module, plan: ExportPlan, licence: str, record: Fields | None) -> str:
    """The text of the card, in markdown, with the metadata of the hub at its head."""
    base = str(getattr(model, "name_or_path", ""))
    is_named = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", base))
    head = ["---", "library_name: transformers"]
    head += [f"license: {licence}"] if licence else []
    head += [f"base_model: {base}"] if is_named else []
    head += ["tags:", "- lowrank", "---"]
    of = f" of {base}" if is_named else ""
    kind = type(model).__name__
    body = [f"# A compressed {kind}{of}", "", *_measured(record), "## Weights", ""]
    body += ["```text", plan.describe(), "```", ""]
    licensed = f"that of the base, {licence}" if licence else "unknown; see the base"
    body += ["## Licence", "", f"The licence is {licensed}.", ""]
    return "\n".join([*head, "", *body])


def _measured(record: Fields | None) -> list[str]:
    if record is None:
        return ["Its quality was not measured.", ""]
    ratio = record.fields("ratios").number("compression_ratio")
    lines = [
        f"Compressed by the method `{record.text('method')}`, {ratio:.2f} times smaller than the "
        f"dense model{_bits(record)}.",
        "",
        "## Quality",
        "",
        f"| {record.text('task')} | dense | compressed |",
        "| --- | ---: | ---: |",
    ]
    dense, compressed = record.fields("dense"), record.fields("compressed")
    for metric in record.each("metrics"):
        name = metric.text("name")
        if name in dense and name in compressed:
            title = " ".join(metric.text("title").split())
            lines.append(f"| {title} | {_number(dense[name])} | {_number(compressed[name])} |")
    return [*lines, "", *_protocol(record)]


def _bits(record: Fields) -> str:
    ratios = record.fields("ratios")
    if ratios.get("layers_bits_per_weight") is None:
        return ""
    return f", {ratios.number('layers_bits_per_weight'):.2f} bits a weight in compressed layers"


def _protocol(record: Fields) -> list[str]:
    """How it was measured, as far as the record says it."""
    lines = ["## Protocol", ""]
    for name in ("norm", "recovery", "seed"):
        if record.get(name) is not None:
            lines.append(f"- {name}: {record[name]}")
    config: Any = record.get("config")
    for part in ("method", "task"):
        fields = config.get(part) if isinstance(config, Mapping) else None
        if isinstance(fields, Mapping):
            plain = {k: v for k, v in fields.items() if isinstance(v, bool | int | float | str)}
            said = ", ".join(f"{k}={v}" for k, v in plain.items() if not k.startswith("_"))
            lines.append(f"- {part}: {said}")
    return [*lines, ""]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
