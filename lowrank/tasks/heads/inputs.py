"""What a model of transformers is given of each row: the interface, texts, words and images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lowrank.numerics.checks import check_integer
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.splits import check_text

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Encoded:
    """The inputs of a batch.

    Attributes:
        inputs: by the names of the model's arguments, each with the batch as its first axis.
        real: of inputs with padding, bool (batch, length).
        words: of each example the number of the word that each token is of, None for those of
            none; None if the rows are no words.
        images: those of the rows as they are, if they have any.
        offsets: int64 (batch, length, 2), the first letter of the context that a token is of, and
            the one after its last; −1 of a token of none. None if there is no context.
    """

    inputs: Mapping[str, Tensor]
    real: Mapping[int | str, Tensor]
    words: list[list[int | None]] | None = None
    images: list[Any] | None = None
    offsets: Tensor | None = None


class ModelInputs(ABC):
    """Inputs of a model by its own processor; each final class is a frozen dataclass."""

    @abstractmethod
    def examples(self, data: Dataset, source: Pretrained) -> Sequence[Any]:
        """What is given of each row.

        Raises:
            ValueError: a missing column or processor, or a row that holds something else.
        """

    @abstractmethod
    def encode(self, examples: list[Any], source: Pretrained, rows: list[int]) -> Encoded:
        """A batch of them.

        Args:
            rows: their numbers, for errors.

        Raises:
            ValueError: the processor or the model cannot take them.
        """


def column_of(data: Dataset, column: str) -> Sequence[Any]:
    """The values of a column; images are decoded when one is taken.

    Raises:
        ValueError: there is no such column.
    """
    if column not in data.column_names:
        raise ValueError(f"the dataset has no column {column!r}; it has {data.column_names}")
    return data[column]  # type: ignore[return-value]


def texts_of(data: Dataset, column: str) -> list[str]:
    """The texts in a column.

    Raises:
        ValueError: there are none.
    """
    found = list(column_of(data, column))
    for row, value in enumerate(found):
        if not isinstance(value, str):
            raise ValueError(f"column {column!r} must hold texts, and row {row} has {value!r:.60}")
    return found


def tokenized(source: Pretrained, max_length: int, rows: list[int], *texts: Any, **options: Any):
    """A batch of texts, or of pairs of them, as token ids."""
    try:
        found = source.tokenizer(
            *texts,
            padding=True,
            max_length=max_length,
            return_tensors="pt",
            verbose=False,
            **({"truncation": True} | options),
        )
    # The library raises plain exceptions of Rust for a pair of which the second is too long.
    except Exception as error:
        raise ValueError(
            f"the tokenizer of model {source.name!r} does not take rows {rows[0]}..{rows[-1]}: "
            f"{error}"
        ) from error
    ids = found["input_ids"]
    source.check_ids(ids)
    mask = found.get("attention_mask")
    if mask is None:
        return found, {}
    real = mask.bool()
    return found, {name: real for name, value in found.items() if value.shape == real.shape}


@dataclass(frozen=True)
class TextInputs(ModelInputs):
    """Texts, or pairs of texts, by the model's own tokenizer.

    Args:
        column: that of the text.
        pair: the column of the second text, such as the hypothesis beside a premise.
        prefix: text before each text.
        max_length: the most tokens; further ones are cut off.
    """

    column: str = "text"
    pair: str | None = None
    prefix: str = ""
    max_length: int = 128

    def __post_init__(self) -> None:
        check_text("column", self.column)
        if self.pair is not None:
            check_text("pair", self.pair)
        if not isinstance(self.prefix, str):
            raise ValueError(f"prefix={self.prefix!r} must be a text")
        check_integer("max_length", self.max_length, least=1)

    def examples(self, data: Dataset, source: Pretrained) -> Sequence[tuple[str, ...]]:
        source.check_length("max_length", self.max_length)
        _ = source.tokenizer  # Missing, it is an error before any work.
        columns = [[self.prefix + text for text in texts_of(data, self.column)]]
        if self.pair is not None:
            columns.append(texts_of(data, self.pair))
        return list(zip(*columns, strict=True))

    def encode(self, examples: list[Any], source: Pretrained, rows: list[int]) -> Encoded:
        columns = [list(column) for column in zip(*examples, strict=True)]
        inputs, real = tokenized(source, self.max_length, rows, *columns)
        return Encoded(dict(inputs), real)


@dataclass(frozen=True)
class WordInputs(ModelInputs):
    """Texts that are lists of words, by the model's own tokenizer, which must be a fast one.

    Args:
        column: that of the words.
        max_length: the most tokens; words after them are cut off.
    """

    column: str = "tokens"
    max_length: int = 128

    def __post_init__(self) -> None:
        check_text("column", self.column)
        check_integer("max_length", self.max_length, least=1)

    def examples(self, data: Dataset, source: Pretrained) -> Sequence[list[str]]:
        source.check_length("max_length", self.max_length)
        source.check_fast("of which word a token is")
        found = list(column_of(data, self.column))
        for row, words in enumerate(found):
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError(
                    f"column {self.column!r} must hold lists of words, and row {row} has "
                    f"{words!r:.60}"
                )
            if not words:
                raise ValueError(f"column {self.column!r} has no words in row {row}")
        return found

    def encode(self, examples: list[Any], source: Pretrained, rows: list[int]) -> Encoded:
        found, real = tokenized(source, self.max_length, rows, examples, is_split_into_words=True)
        words = [found.word_ids(row) for row in range(len(examples))]
        return Encoded(dict(found), real, words)


@dataclass(frozen=True)
class ImageInputs(ModelInputs):
    """Images by the model's own image processor, in R, G, B.

    Args:
        column: that of the images.
    """

    column: str = "image"

    def __post_init__(self) -> None:
        check_text("column", self.column)

    def examples(self, data: Dataset, source: Pretrained) -> Sequence[Any]:
        _ = source.image_processor  # Missing, it is an error before any work.
        found = column_of(data, self.column)
        _check_image(found[0], self.column, 0)
        return found

    def encode(self, examples: list[Any], source: Pretrained, rows: list[int]) -> Encoded:
        for row, image in zip(rows, examples, strict=True):
            _check_image(image, self.column, row)
        images = [image.convert("RGB") for image in examples]
        try:
            found = source.image_processor(images=images, return_tensors="pt")
        except ValueError as error:
            raise ValueError(
                f"the image processor of model {source.name!r} does not take rows "
                f"{rows[0]}..{rows[-1]}: {error}"
            ) from error
        # Of the many things that processors give, such as sizes before resizing, models take these.
        names = [name for name in source.image_processor.model_input_names if name in found]
        return Encoded({name: found[name] for name in names}, {}, images=images)


def _check_image(image: Any, column: str, row: int) -> None:
    from PIL.Image import Image

    if not isinstance(image, Image):
        raise ValueError(f"column {column!r} must hold images, and row {row} has {image!r:.60}")
