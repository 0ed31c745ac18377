"""The folder of a model of `transformers`, quantized layers in the form of compressed-tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from lowrank.export.config_sizes import check_config, check_ties
from lowrank.export.formats.format import Format
from lowrank.export.formats.hf.card import CARD, NAME, card, licence_of, read_record
from lowrank.export.formats.hf.compressed_tensors import FORMAT
from lowrank.export.formats.hf.own_code import auto_classes, kept_layers, planned_own, write_own
from lowrank.export.formats.hf.packed_layers import pack_layers, planned_packed
from lowrank.export.formats.hf.processor import processor_of
from lowrank.export.formats.plan import ExportPlan
from lowrank.export.formats.rest import rest_bytes
from lowrank.model.contents import names_of
from lowrank.model.dense import dense_model
from lowrank.numerics.checks import check_flag, check_integer

CONFIG = "config.json"
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class HuggingFaceFolder(Format):
    """A folder that ``from_pretrained`` of `transformers` loads: config, generation config,
    tokenizer, weights in shards, and a model card.

    Linear layers of codes keep them, in the format ``pack-quantized`` of compressed-tensors, which
    the reader needs then. 16-bit values stay so. All else is written as dense matrices, or, with
    `code`, keeps its form, which code in the folder runs.

    Args:
        tokenizer: a folder or a name on the hub with the tokenizer or processor, or a GGUF file
            with a tokenizer; by default that of the model itself; None leaves it out.
        shard_bytes: the largest size of a file of weights; several have an index.
        record: the file of a record, for the model card.
        licence: of the base, as the hub names it; by default that of the base's own card.
        code: whether all forms that methods make are kept, and run by code that goes into the
            folder. It needs torch and transformers alone, and ``trust_remote_code=True`` of the
            reader.
        dequantize: whether readers multiply packed layers out as they load, and not in the first
            run. What trains on top of them, such as PEFT, needs it. It takes layers packed alike,
            and scales of 32 bits where the model has another dtype than they have.

    Raises:
        ValueError: another type or value.
    """

    name: ClassVar[str] = "hf"
    libraries: ClassVar[tuple[str, ...]] = ("transformers",)

    tokenizer: str | Path | None = ""
    shard_bytes: int = SHARD_BYTES
    record: str | Path | None = None
    licence: str = ""
    code: bool = False
    dequantize: bool = False

    def __post_init__(self) -> None:
        check_integer("shard_bytes", self.shard_bytes, least=1)
        check_flag("code", self.code)
        check_flag("dequantize", self.dequantize)
        if self.code and self.dequantize:
            raise ValueError("dequantize=True is for packed layers, and with code=True none is")
        if self.tokenizer is not None and not isinstance(self.tokenizer, str | Path):
            raise ValueError(f"tokenizer={self.tokenizer!r} must be a path, a name, or None")
        if not isinstance(self.licence, str) or not NAME.fullmatch(self.licence):
            raise ValueError(
                f"licence={self.licence!r} must be a name of the hub's, such as 'apache-2.0'"
            )

    def plan(self, model: nn.Module) -> ExportPlan:
        check_pretrained(model)
        if self.record is not None:
            read_record(self.record)
        notes = [] if self._licence(model) else ["the licence of the base is not known"]
        if self.tokenizer is None:
            notes.append("no tokenizer: tokenizer=None leaves it out")
        else:
            processor_of(model, self.tokenizer)
        if self.code:
            auto_classes(model)
        layers = planned_own(model) if self.code else planned_packed(model, self.dequantize)
        kept = kept_layers(model, layers) if self.code else []
        exchanged = [name for layer in kept for name in layer.modules]
        drawn = check_config(model, exchanged)
        check_ties(model, exchanged)
        if drawn:
            notes.append(f"a reader draws {names_of(drawn)} at random: this model does without")
        if self.code:
            notes.append("the reader gives trust_remote_code=True, and needs no other library")
        elif any(layer.stored.startswith(FORMAT) for layer in layers):
            notes.append("the reader needs the library compressed-tensors")
        return ExportPlan(self.name, layers, rest_bytes(model), tuple(notes))

    def write(self, model: nn.Module, plan: ExportPlan, folder: Path) -> None:
        dense: Any = dense_model(model)
        state = dense.state_dict()
        if self.code:
            entries = write_own(model, plan, state, folder)
        else:
            entries = pack_layers(model, plan, dense, state, self.dequantize)
        # The rules by which the library renames weights are not for models of other code.
        write_pretrained(dense, state, folder, self.shard_bytes, as_original=not self.code)
        add_to_config(folder, entries)
        if self.tokenizer is not None:
            processor_of(model, self.tokenizer).save_pretrained(folder)
        record = None if self.record is None else read_record(self.record)
        (folder / CARD).write_text(card(model, plan, self._licence(model), record), "utf-8")

    def as_base(self) -> Format:
        if self.code:
            raise ValueError("PEFT knows none of the layers of code=True: leave it out")
        return replace(self, dequantize=True)

    def _licence(self, model: nn.Module) -> str:
        return self.licence or licence_of(model)


def check_pretrained(model: nn.Module) -> None:
    """Raise ValueError unless it is a model of `transformers`."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"a folder of transformers holds its models, and {type(model).__name__} is none: "
            "choose format='dense'"
        )


def write_pretrained(
    dense: Any, state: dict[str, Tensor], folder: Path, shard_bytes: int, as_original: bool
) -> None:
    """Write tensors, config and generation config as the library of the model does.

    Args:
        dense: the model of the classes of the library; its config then says dtype and class.
        as_original: whether under the names of the files of the library, or those of modules.
    """
    dense.save_pretrained(
        folder,
        state_dict=state,
        max_shard_size=shard_bytes,
        save_original_format=as_original,
    )


def add_to_config(folder: Path, entries: dict[str, Any]) -> None:
    """Add entries to the config in a folder."""
    path = folder / CONFIG
    config = json.loads(path.read_text("utf-8")) | entries
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
