"""The division of a task's examples into splits, and the name of a task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.numerics.checks import check_integer

# From here on a generator of torch takes no seed.
TORCH_SEED_LIMIT = 2**63


class Derived(str):
    """A task's name that follows from its data: a copy with other data gets another."""


def named(given: str | None, derived: str) -> str:
    """The name of a task: the given one, or what follows from its data.

    Raises:
        ValueError: it is no text, or empty.
    """
    if given is None or isinstance(given, Derived):
        return Derived(derived)
    check_text("name", given)
    return given


def data_name(dataset: str, config: str | None) -> str:
    """``wikitext-2-raw-v1`` of Salesforce/wikitext, ``glue-sst2`` of nyu-mll/glue, ``mnist``."""
    short = dataset.rstrip("/").rpartition("/")[2]
    if config is None:
        return short.lower()
    return (config if config.startswith(short) else f"{short}-{config}").lower()


def check_text(name: str, value: object) -> None:
    """Raise ValueError unless it is a text that says something."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}={value!r} must be a text that is not empty")


def check_seed(name: str, seed: object) -> None:
    """Raise ValueError unless it is a whole number that a generator takes."""
    check_integer(name, seed, least=0)
    if isinstance(seed, int) and seed >= TORCH_SEED_LIMIT:
        raise ValueError(f"{name}={seed} must be below {TORCH_SEED_LIMIT}")


@dataclass(frozen=True)
class Division:
    """The rows of the examples to learn from that belong to each split, int64 (count,).

    `calibration` is a part of `train`, and `validation` is not.
    """

    train: Tensor
    calibration: Tensor
    validation: Tensor

    def rows(self, name: str) -> Tensor:
        """Those of one split, by its name."""
        return getattr(self, name)


def check_division(
    validation_size: int | None,
    calibration_size: int | None,
    calibration_seed: int | None,
    split_seed: int = 0,
) -> None:
    """Raise ValueError unless these can be arguments of `divided`, as far as that can be known
    without the data."""
    for name, size in (
        ("validation_size", validation_size),
        ("calibration_size", calibration_size),
    ):
        if size is not None:
            check_integer(name, size, least=1)
    if calibration_seed is not None:
        check_seed("calibration_seed", calibration_seed)
    check_seed("split_seed", split_seed)


def divided(
    found: int,
    sizes: tuple[int | None, int | None],
    most: tuple[int, int],
    of: str,
    calibration_seed: int | None,
    split_seed: int | None = None,
) -> Division:
    """The examples to learn from, divided into splits.

    Args:
        found: how many there are.
        sizes: of validation and calibration; a tenth, and all that are not validation, if not
            given.
        most: what they are at most where they are not given.
        of: what the examples are, for the error.
        calibration_seed: draws which of `train` calibrate; its first, if not given.
        split_seed: draws which are validation; the last, if not given.

    Raises:
        ValueError: the sizes do not fit; the text says what does.
    """
    validating, calibrating = _sizes(found, *sizes, most=most, of=of)
    learnt = found - validating
    order = torch.arange(found) if split_seed is None else _permutation(found, split_seed)
    if calibration_seed is None:
        calibration = order[:calibrating]
    else:
        calibration = order[_permutation(learnt, calibration_seed)[:calibrating]]
    return Division(order[:learnt], calibration, order[learnt:])


def _permutation(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _sizes(
    found: int, validation: int | None, calibration: int | None, most: tuple[int, int], of: str
) -> tuple[int, int]:
    """How many validate, and how many of the others calibrate; see `divided`."""
    if found < 2:
        raise ValueError(f"{found} {of} cannot be divided into parts: take 2 or more")
    validating = min(most[0], max(1, found // 10)) if validation is None else validation
    learnt = found - validating
    calibrating = min(most[1], learnt) if calibration is None else calibration
    if not 1 <= calibrating <= learnt:
        fits = (
            f"with that validation_size, calibration_size is at most {learnt}"
            if learnt > 0
            else f"validation_size is at most {found - 1}"
        )
        asked = "" if calibration is None else f" and calibration_size={calibration}"
        raise ValueError(
            f"validation_size={validating}{asked} do not fit the {found} {of}: calibration is a "
            f"part of those that are not validation, so {fits}; lower it, or take more data"
        )
    return validating, calibrating
