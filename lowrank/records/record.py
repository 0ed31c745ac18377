"""The record of a point with the outcomes of its examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowrank.records.outcomes import Outcomes


class Record(dict[str, Any]):
    """The record of a measured point: the fields of its JSON, and the outcomes beside it.

    A copy by ``dict(record)`` or ``record | …`` has no outcomes.

    Attributes:
        outcomes: what the dense and the compressed model did on each example of the test split;
            `lowrank.records.store.save` writes them into the file that "outcomes_file" names.
    """

    outcomes: Outcomes

    def __init__(self, fields: dict[str, Any], outcomes: Outcomes) -> None:
        super().__init__(fields)
        self.outcomes = outcomes
