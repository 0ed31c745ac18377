"""The base of tasks with a pretrained model of transformers."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.task import Task


class PretrainedTask(Task):
    """A task whose model is published; each final class is a frozen dataclass.

    Attributes:
        pretrained: the model's name in the mirror or on the hub, or its folder.
        dtype: the dtype of the weights, float32, float16 or bfloat16, whatever the file has.
        revision: a commit of the model on the hub.
        trust_remote_code: whether code that comes with the model may run.
    """

    pretrained: str
    dtype: str
    revision: str | None
    trust_remote_code: bool

    @property
    def draws_model(self) -> bool:
        return False

    def check(self) -> None:
        super().check()
        self._pretrained.check_weights()

    def protocol(self) -> dict[str, Any]:
        return {
            "pretrained": self.pretrained,
            "dtype": self.dtype,
            "trust_remote_code": self.trust_remote_code,
        }

    @cached_property
    def _pretrained(self) -> Pretrained:
        return Pretrained(self.pretrained, self.dtype, self.revision, self.trust_remote_code)
