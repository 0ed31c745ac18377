"""The contents of calibration batches: their text for hashes, their description, their checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lowrank.model.batch import Batch
from lowrank.model.nested import leaves
from lowrank.numerics.memo import fingerprint
from lowrank.numerics.storage import dtype_name

PLAIN = (bool, int, float, str)


def spelled(value: Any) -> str:
    """A batch as text in which each tensor is a hash of its content.

    Raises:
        ValueError: the batch holds an object that has no such text.
    """
    if isinstance(value, Tensor):
        return fingerprint(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {spelled(part)}' for key, part in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(spelled, value))})"
    if value is None or isinstance(value, PLAIN):
        return repr(value)
    raise ValueError(
        f"calibration data hold a {type(value).__name__}, which cannot be hashed: give "
        "tensors (torch.from_numpy of arrays), numbers and texts, alone or in tuples, "
        "lists and mappings"
    )


def as_batch(given: Any) -> Batch:
    """A batch of the inputs that a user gives: one tensor, a tuple or a list by position, a mapping
    by name.
    """
    if isinstance(given, Mapping):
        return Batch(dict(given))
    return Batch(tuple(given) if isinstance(given, list | tuple) else (given,))


def described(batch: Any) -> str:
    """A batch described for error texts: places, shapes, dtypes, and devices other than the CPU."""
    own = [(place, leaf) for place, leaf in leaves(batch) if isinstance(leaf, Tensor)]
    return ", ".join(f"{p} {_described(t)}".strip() for p, t in own) or f"a {type(batch).__name__}"


def _described(tensor: Tensor) -> str:
    device = "" if tensor.device.type == "cpu" else f" on {tensor.device}"
    return f"{tuple(tensor.shape)} {dtype_name(tensor.dtype)}{device}"


def check_contents(batch: Any, number: int) -> None:
    """Raise ValueError unless a batch holds examples in tensors that have values.

    Args:
        number: of the batch, from 0, for the text.
    """
    name = f"calibration batch {number}"
    keys = [key for key in batch if not isinstance(key, str)] if isinstance(batch, Mapping) else []
    if keys:
        raise ValueError(
            f"{name} has the key {keys[0]!r}, and keys are names of arguments, as text"
        )
    found = list(leaves(batch))
    own = [(place, leaf) for place, leaf in found if isinstance(leaf, Tensor)]
    if any(isinstance(leaf, str) for _, leaf in found) and not own:
        raise ValueError(
            f"{name} is text: tokenize first, and give what the tokenizer returns with "
            'return_tensors="pt"'
        )
    for place, leaf in found:
        try:
            spelled(leaf) if not isinstance(leaf, Tensor) else None
        except ValueError as error:
            raise ValueError(f"{at(name, place)}: {error}") from None
    if not any(tensor.numel() for _, tensor in own):
        raise ValueError(
            f"{name} ({described(batch)}) holds no examples in tensors: leave it out, or give "
            "tensors with at least one example along their first axis"
        )
    for place, tensor in own:
        if tensor.is_meta:
            raise ValueError(
                f"{at(name, place)}: a tensor on the device meta has no values: give real ones"
            )


def check_finite(arguments: Mapping[str, Any], number: int) -> None:
    """Raise ValueError if numbers are NaN or infinite.

    Masks and biases, recognised by their names, may hold minus infinity, which hides a position.

    Args:
        arguments: a batch by the names of the model's arguments.
        number: of the batch, from 0, for the text.
    """
    for place, tensor in leaves(arguments):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        if bool(tensor.isfinite().all()):
            continue
        bad = ~tensor.isfinite()
        if "mask" in place or "bias" in place:
            bad &= ~tensor.isneginf()
        if bool(bad.any()):
            raise ValueError(
                f"{at(f'calibration batch {number}', place)}: {int(bad.sum())} of "
                f"{tensor.numel()} values are NaN or infinite. Check the data"
            )


def at(name: str, place: str) -> str:
    """``calibration batch 3, argument input_ids``."""
    return f"{name}, argument {place}" if place else name


def batches_of(data: Any) -> Sequence[Any]:
    """The batches of data that can be iterated more than once, as a list.

    Raises:
        ValueError: data that can be iterated only once, or that hold no batch.
    """
    wanted = "calibration data must be a non-empty list of batches (tensors, tuples or dicts)"
    singles = {Tensor: "[data] or data.split(8)", np.ndarray: "[torch.from_numpy(data)]"}
    for kind, instead in (singles | {Mapping: "[data]"}).items():
        if isinstance(data, kind):
            raise ValueError(f"{wanted}, got one {type(data).__name__}: give {instead}")
    if isinstance(data, Iterator):
        raise ValueError(
            f"{wanted}, which are gone through more than once, got a {type(data).__name__}, which "
            "can be gone through only once: give list(data)"
        )
    is_text = isinstance(data, str | bytes)
    given = list(data) if isinstance(data, Iterable) and not isinstance(data, Sequence) else data
    if is_text or not isinstance(given, Sequence) or not len(given):
        kind = f"the class {data.__name__}" if isinstance(data, type) else type(data).__name__
        empty = " that is empty" if isinstance(given, Sequence) and not len(given) else ""
        raise ValueError(f"{wanted}, a loader of such, or a task; got {kind}{empty}")
    return given
