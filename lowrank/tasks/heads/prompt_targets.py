"""A class of each image by texts that describe the classes: zero-shot classification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.model.batch import Batch
from lowrank.tasks.heads.inputs import Encoded, column_of
from lowrank.tasks.heads.targets import ScoredClasses
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.prompts import by_length, prompt_ids
from lowrank.tasks.sentences import PADDING, filled_up
from lowrank.tasks.splits import check_text

if TYPE_CHECKING:
    from datasets import Dataset

PLACE = "{}"


@dataclass(frozen=True)
class PromptTargets(ScoredClasses):
    """The class of each image whose prompt a model of images and texts finds the likest, as
    AutoModelForZeroShotImageClassification does.

    Prompts of one length run together, so that none is padded; images run with each of these
    groups again.

    Args:
        names: of the classes, by their numbers.
        prompt: what is said of a class, with ``{}`` in place of its name.
        column: that of class numbers, or of names among `names`.
    """

    names: Sequence[str]
    prompt: str = "a photo of a {}."
    column: str = "label"

    def __post_init__(self) -> None:
        names = list(self.names) if not isinstance(self.names, str) else []
        if len(names) < 2 or len(set(names)) < len(names) or not all(names):
            raise ValueError(f"names={self.names!r} must be two or more different names of classes")
        object.__setattr__(self, "names", tuple(map(str, names)))
        check_text("prompt", self.prompt)
        if PLACE not in self.prompt:
            raise ValueError(f"prompt={self.prompt!r} must have {PLACE} in place of a name")
        check_text("column", self.column)

    def answers(self, data: Dataset, source: Pretrained) -> Sequence[int]:
        numbers = {name: number for number, name in enumerate(self.names)}
        found = []
        for row, value in enumerate(column_of(data, self.column)):
            number = numbers.get(value) if isinstance(value, str) else value
            if type(number) is not int or not 0 <= number < len(self.names):
                raise ValueError(
                    f"column {self.column!r} has {value!r:.60} in row {row}, which is none of the "
                    f"{len(self.names)} classes of `names`"
                )
            found.append(number)
        self._prompts(source)  # An error of theirs is said before any work.
        return found

    def batch(
        self, wanted: list[int], encoded: Encoded, source: Pretrained, rows: list[int]
    ) -> Batch:
        return Batch(encoded.inputs, torch.tensor(wanted), encoded.real)

    def outputs(self, model: nn.Module, batch: Batch, source: Pretrained) -> Tensor:
        inputs: Any = batch.inputs
        prompts = self._prompts(source)
        scores: list[Any] = [None] * len(prompts)
        for places in by_length(prompts):
            ids = torch.tensor([prompts[place] for place in places])
            ids = ids.to(batch.targets.device)
            given = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs)
            for place, one in zip(places, given.logits_per_image.unbind(dim=1), strict=True):
                scores[place] = one
        return torch.stack(scores, dim=1)

    def example(self, inputs: Any, source: Pretrained) -> Any:
        """The inputs, and all prompts, padded to the longest."""
        ids = filled_up(self._prompts(source))
        real, device = ids != PADDING, inputs["pixel_values"].device
        given = {"input_ids": ids.clamp(min=0), "attention_mask": real.long()}
        return {**inputs, **{name: value.to(device) for name, value in given.items()}}

    def classes(self, source: Pretrained) -> int:
        return len(self.names)

    def protocol(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "classes": len(self.names)}

    def _prompts(self, source: Pretrained) -> list[list[int]]:
        """The token ids of the prompt of each class."""
        return prompt_ids(source, [self.prompt.replace(PLACE, name) for name in self.names])
