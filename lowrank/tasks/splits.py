"""How the examples of a task are divided, drawn and put into batches, and what it is called."""

from __future__ import annotations

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


def check_sizes(**sizes: object) -> None:
    """Raise ValueError unless each is a whole number from 1, or None."""
    for name, size in sizes.items():
        if size is not None:
            check_integer(name, size, least=1)


def part_sizes(
    found: int, validation: int | None, calibration: int | None, most: tuple[int, int], of: str
) -> tuple[int, int]:
    """How many of the examples to learn from are validation, and how many of the others calibrate.

    Args:
        found: how many there are.
        validation: a tenth, if not given.
        calibration: all that are not validation, if not given.
        most: what they are at most where they are not given.
        of: what the examples are, for the error.

    Raises:
        ValueError: they do not fit; the text says what does.
    """
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


def calibration_rows(learnt: int, size: int, seed: int | None) -> Tensor:
    """Which of `learnt` train examples calibrate: the first, or `size` drawn with a seed."""
    if seed is None:
        return torch.arange(size)
    return torch.randperm(learnt, generator=torch.Generator().manual_seed(seed))[:size]


def batches_of(rows: Tensor, batch_size: int, shuffle_seed: int | None) -> tuple[Tensor, ...]:
    """Rows (count,) in batches, in their order or in one drawn with a seed; the last is shorter.

    Raises:
        ValueError: batch_size is no whole number from 1.
    """
    check_integer("batch_size", batch_size, least=1)
    if shuffle_seed is not None:
        generator = torch.Generator().manual_seed(shuffle_seed)
        rows = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
    return rows.split(batch_size)
