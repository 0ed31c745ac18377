"""The division of a task's examples into splits, and the names of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lowrank.numerics.checks import check_integer, check_one_of

# The data of which validation is a part.
ValidationFrom = Literal["train", "test"]

# The first seed that is too large for a generator of torch.
TORCH_SEED_LIMIT = 2**63


class Derived(str):
    """A task's name derived from its data; a copy with other data gets another name."""


def named(given: str | None, derived: str) -> str:
    """The name of a task: the given one, or the one derived from its data.

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


def counted(split: Callable[[Any], Sized], units: str) -> dict[str, int]:
    """The numbers of examples in the splits of a task, as a protocol has them.

    Args:
        split: from the name of a split to its examples.
        units: the word for them.
    """
    names = ("test", "train", "validation", "calibration")
    return {f"{name}_{units}": len(split(name)) for name in names}


def check_text(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}={value!r} must be a text that is not empty")


def check_texts_of(owner: object, needed: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Raise ValueError unless fields are texts that are not empty, or, optional ones, None."""
    for name in needed:
        check_text(name, getattr(owner, name))
    for name in optional:
        if getattr(owner, name) is not None:
            check_text(name, getattr(owner, name))


def check_seed(name: str, seed: object) -> None:
    """Raise ValueError unless `seed` is a whole number that a generator takes."""
    check_integer(name, seed, least=0)
    if isinstance(seed, int) and seed >= TORCH_SEED_LIMIT:
        raise ValueError(f"{name}={seed} must be below {TORCH_SEED_LIMIT}")


@dataclass(frozen=True)
class Division:
    """The rows of each split among the examples other than the test examples, int64 (count,).

    `calibration` is a part of `train`, and `validation` is not.
    """

    train: Tensor
    calibration: Tensor
    validation: Tensor

    def rows(self, name: str) -> Tensor:
        """The rows of the split `name`."""
        return getattr(self, name)


def check_division(
    validation_size: int | None,
    calibration_size: int | None,
    calibration_seed: int | None,
    split_seed: int = 0,
    validation_from: ValidationFrom = "train",
) -> None:
    """Raise ValueError for arguments that `divided` refuses whatever the data."""
    for name, size in (
        ("validation_size", validation_size),
        ("calibration_size", calibration_size),
    ):
        if size is not None:
            check_integer(name, size, least=1)
    if calibration_seed is not None:
        check_seed("calibration_seed", calibration_seed)
    check_seed("split_seed", split_seed)
    check_one_of("validation_from", validation_from, get_args(ValidationFrom))


@dataclass(frozen=True)
class TestDivision:
    """The rows of the reported examples and of `validation` among the test data, int64 (count,), in
    the order of the data.

    `validation` is empty unless it is a part of the test data.
    """

    test: Tensor
    validation: Tensor


def divided_test(
    found: int, size: int | None, most: int, of: str, validation_from: ValidationFrom, seed: int
) -> TestDivision:
    """The division of the test data.

    Args:
        found: the number of examples.
        size: that of validation; a tenth, at most `most`, if not given.
        of: the word for the examples in errors.
        seed: draws `validation`.

    Raises:
        ValueError: nothing would be left to report.
    """
    if validation_from == "train":
        return TestDivision(torch.arange(found), torch.arange(0))
    taken = min(most, max(1, found // 10)) if size is None else size
    if taken >= found:
        raise ValueError(
            f"validation_size={taken} with validation_from=test leaves none of the {found} {of} to "
            f"report: it is at most {found - 1}"
        )
    order = permutation(found, seed)
    return TestDivision(order[taken:].sort().values, order[:taken].sort().values)


def divided(
    found: int,
    sizes: tuple[int | None, int | None],
    most: tuple[int, int],
    of: str,
    calibration_seed: int | None,
    split_seed: int | None = None,
) -> Division:
    """The division of the examples other than the test examples.

    Args:
        found: the number of examples.
        sizes: those of validation, 0 if it is a part of the test data, and of calibration; by
            default a tenth, and all that are not validation.
        most: the largest default of each size.
        of: the word for the examples in errors.
        calibration_seed: draws `calibration` from `train`; its first examples if not given.
        split_seed: draws `validation`; the last examples if not given.

    Raises:
        ValueError: the sizes do not fit; the text says which do.
    """
    validating, calibrating = _sizes(found, *sizes, most=most, of=of)
    learnt = found - validating
    order = torch.arange(found) if split_seed is None else permutation(found, split_seed)
    if calibration_seed is None:
        calibration = order[:calibrating]
    else:
        calibration = order[permutation(learnt, calibration_seed)[:calibrating]]
    return Division(order[:learnt], calibration, order[learnt:])


def calibration_rows(found: int, size: int, seed: int | None, of: str) -> Tensor:
    """The rows of `calibration` where it is drawn from a whole train split, int64 (size,).

    Args:
        found: the number of examples of `train`.
        of: the word for them in errors.
        seed: draws them; the first ones if not given.

    Raises:
        ValueError: there are not so many.
    """
    if size > found:
        raise ValueError(
            f"calibration_size={size} is more than the {found} {of} of `train`: lower it"
        )
    return (torch.arange(found) if seed is None else permutation(found, seed))[:size]


def permutation(count: int, seed: int) -> Tensor:
    """The numbers below `count` in an order that a seed draws, int64."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _sizes(
    found: int, validation: int | None, calibration: int | None, most: tuple[int, int], of: str
) -> tuple[int, int]:
    """The sizes of validation and calibration; see `divided`."""
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
