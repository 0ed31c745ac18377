"""Factories of decomposers: callables that take some of their hyperparameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from lowrank.decomposers import Decomposer


def made_by(of: Callable[..., Decomposer], **fields: Any) -> Decomposer:
    """The decomposer that `of` returns for these hyperparameters.

    Args:
        of: a class of decomposers, or one with other hyperparameters set, as by
            `functools.partial`.

    Raises:
        ValueError: `of` cannot be called with them, or makes something else.
    """
    wanted = f"of={of!r:.200} must make a decomposer when called with {', '.join(fields)}"
    try:
        signature = inspect.signature(of)
    except (TypeError, ValueError) as error:  # Of builtins some have none.
        raise ValueError(f"{wanted}: {error}") from error
    try:
        signature.bind(**fields)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "nothing"
        raise ValueError(f"{wanted}: {error}. It takes {takes}") from error
    made = of(**fields)
    if not isinstance(made, Decomposer):
        raise ValueError(f"{wanted}, and made {made!r:.200}")
    return made
