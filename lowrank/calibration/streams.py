"""Streams of positions in a batch, and the padding that its masks mark in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from lowrank.calibration.arguments import has_decoder, runs_length_first
from lowrank.calibration.masks import INVERTED, is_causal, is_mask, prefix_of, real_keys, visible

# Prefixes of arguments whose positions differ from those of arguments without a prefix.
APART = ("decoder", "tgt", "memory")
# Prefixes of arguments to which the masks without a prefix apply.
ALONG = ("input", "inputs", "token_type", "position", "encoder")
IGNORED = -100  # The label of a position that the loss ignores, as in `F.cross_entropy`.


@dataclass(frozen=True)
class Stream:
    """A sequence of positions that tensors of a batch have in common.

    Attributes:
        prefix: the prefix of the names of its tensors; may be empty.
        mask: the argument that marks its padding.
        real: bool (batch, length), on the CPU; False at padding.
    """

    prefix: str
    mask: str
    real: Tensor

    @property
    def length(self) -> int:
        return self.real.shape[1]

    @property
    def is_padded(self) -> bool:
        return not bool(self.real.all())


@dataclass
class Reading:
    """The arguments of a batch with the streams of positions found in its masks.

    Attributes:
        arguments: its tensors by the names of the model's arguments, scalars left out.
        batch: the number of examples.
        turned: whether tensors other than masks have shape (length, batch, …).
        is_sure: whether `turned` is certain.
        model: the model that takes the arguments.
        streams: the streams, by prefix.
        taken: the masks used as padding masks.
        unread: masks that hide positions but were not used as padding masks.
    """

    arguments: Mapping[str, Tensor]
    model: nn.Module
    batch: int
    turned: bool = False
    is_sure: bool = True
    streams: dict[str, Stream] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)

    @cached_property
    def decodes(self) -> bool:
        """Whether the model has both an encoder and a decoder."""
        return has_decoder(self.model)

    @property
    def others(self) -> list[Tensor]:
        """The tensors other than masks."""
        return [tensor for name, tensor in self.arguments.items() if not is_mask(name)]

    @property
    def padded(self) -> list[Stream]:
        """The streams that hold padding."""
        return [stream for stream in self.streams.values() if stream.is_padded]

    def stream_of(self, name: str) -> Stream | None:
        """The stream of an argument; None if no mask applies to its positions."""
        for prefix, stream in self.streams.items():
            if prefix and begins(name, prefix):
                return stream
        if begins(name, "memory") and "memory" not in self.arguments:
            return self.streams.get("src")
        if name == "labels" and self.decodes:
            return self.streams.get("decoder")
        if any(begins(name, p) for p in (APART if self.decodes else (*APART, "encoder"))):
            return None
        if "" in self.streams:
            return self.streams[""] if self._goes_along(name) else None
        free = [stream for stream in self.streams.values() if not self._has_own(stream)]
        return free[0] if len(free) == 1 else None

    def could_be_of(self, name: str) -> Stream | None:
        """The stream that an argument may belong to if their lengths are equal; None if none."""
        if any(begins(name, prefix) for prefix in (*APART, "encoder")):
            return None
        return None if self._goes_along(name) else self.streams.get("")

    def _goes_along(self, name: str) -> bool:
        """Whether an argument has the positions of the masks without a prefix. Its length alone
        does not decide, since features of another kind may have the same length.
        """
        tensor = self.arguments.get(name)
        main = (getattr(self.model, "main_input_name", None), next(self._inputs, None))
        return (
            is_mask(name)
            or name in main
            or any(begins(name, prefix) for prefix in ALONG)
            or (tensor is not None and tensor.ndim < 3 and not tensor.is_floating_point())
        )

    @property
    def _inputs(self) -> Iterator[str]:
        return (name for name in self.arguments if not is_mask(name))

    def is_pairwise(self, mask: Tensor) -> bool:
        """Whether a mask is (queries, keys) and shared by all examples, such as a causal mask."""
        if mask.ndim != 2:
            return mask.ndim > 2 and mask.shape[:-2].numel() == 1
        rows, columns = mask.shape
        if rows != columns:
            return rows not in (1, self.batch)
        return rows != self.batch or is_causal(mask == 0) or not self._is_shape_of_another(mask)

    def _is_shape_of_another(self, mask: Tensor) -> bool:
        return any(other.shape == mask.shape for other in self.others)

    def _has_own(self, stream: Stream) -> bool:
        names = [name for name in self.arguments if not is_mask(name)]
        labelled = stream.prefix == "decoder" and self.decodes and "labels" in names
        return labelled or any(begins(name, stream.prefix) for name in names)


def read(model: nn.Module, arguments: Mapping[str, Tensor]) -> Reading | None:
    """The streams of a batch; None if no argument marks padding.

    Args:
        arguments: the tensors among the named arguments of the model.
    """
    arguments = {name: tensor for name, tensor in arguments.items() if tensor.ndim}
    labels = arguments.get("labels")
    labelled = labels is not None and labels.ndim == 2 and bool((labels[:, -1:] == IGNORED).any())
    if not labelled and not any(is_mask(name) for name in arguments):
        return None
    reading = _layout(model, arguments)
    for name, mask in arguments.items():
        if is_mask(name):
            _read_mask(reading, name, mask)
    if labels is not None and labelled and reading.decodes and "decoder" not in reading.streams:
        real = ((labels != IGNORED).flip(1).cumsum(1).flip(1) > 0).cpu()
        reading.streams["decoder"] = Stream("decoder", "labels", real)
    return reading


def _layout(model: nn.Module, arguments: Mapping[str, Tensor]) -> Reading:
    """A reading whose streams are still empty."""
    reading = partial(Reading, arguments, model)
    shapes = [tensor.shape for name, tensor in arguments.items() if not is_mask(name)]
    known = {n: t for n, t in arguments.items() if prefix_of(n) is not None and t.ndim > 1}
    for mask in known.values():
        batch, length = mask.shape[0], mask.shape[-1]
        if batch != length and any(s[:2] == (batch, length) or s[0] == batch for s in shapes):
            return reading(batch)
        if batch != length and any(shape[:2] == (length, batch) for shape in shapes):
            return reading(batch, turned=True)
    squares = [m for n, m in known.items() if n.endswith(INVERTED) and m.shape[0] == m.shape[-1]]
    if squares:
        return reading(len(squares[0]), is_sure=not runs_length_first(model))
    first = next(iter(shapes), next(iter(arguments.values())).shape)
    return reading(first[0])


def _read_mask(reading: Reading, name: str, mask: Tensor) -> None:
    """Add the stream of a mask to a reading, or the mask to its unread ones."""
    prefix, shown = prefix_of(name), visible(name, mask)
    if prefix is None or shown is None:
        hides = shown is None or bool((mask == 0).any())
        reading.unread += [name] if hides and not reading.is_pairwise(mask) else []
        return
    if not _says_padding(reading, name, mask, shown):
        hides = not bool(shown.reshape(-1, shown.shape[-1]).any(dim=0).all())
        # A causal mask equals the padding mask of sentences with 1, 2, 3, … tokens.
        looks_so = mask.ndim == 2 and len(mask) == reading.batch
        reading.unread += [name] if hides or (looks_so and not bool(shown.all())) else []
        return
    real = real_keys(shown).cpu()  # Here a mask is read row by row.
    source = reading.streams.get("src")
    if prefix == "memory" and "memory" not in reading.arguments and source is not None:
        prefix = "src"
    known = reading.streams.setdefault(prefix, Stream(prefix, name, real))
    if torch.equal(known.real, real):
        reading.taken.add(name)
    else:
        reading.unread.append(name)


def _says_padding(reading: Reading, name: str, mask: Tensor, shown: Tensor) -> bool:
    """Whether the first axis of a mask is that of the examples and not that of the queries."""
    if mask.ndim == 1 or len(mask) != reading.batch:
        return False
    if mask.ndim > 2 or name.endswith(INVERTED) or mask.shape[0] != mask.shape[1]:
        return True
    return not is_causal(shown) and not reading.is_pairwise(mask)


def begins(name: str, prefix: str) -> bool:
    """Whether a name equals the prefix or begins with it and an underscore."""
    return name == prefix or (bool(prefix) and name.startswith(f"{prefix}_"))
