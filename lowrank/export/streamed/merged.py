"""Tensors that `transformers` renames, or makes of several in the files of a model, as it loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from lowrank.reading.stored import StoredTensor


@dataclass(frozen=True)
class MergedTensor:
    """A tensor of a model that is made of several in the files, such as that of all experts.

    Args:
        name: in the model.
        rule: of the library, that makes it.
        sources: the tensors in the files, by the pattern of the rule that their names match, in the
            order of their numbers.
        wanted: its shape in the model.
        config: of the model.
    """

    name: str
    rule: Any
    sources: Mapping[str, Sequence[StoredTensor]]
    wanted: tuple[int, ...]
    config: Any

    @property
    def dtype(self) -> torch.dtype:
        """That of the tensors in the files, which have one."""
        return next(iter(self.sources.values()))[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """What the rule makes of their shapes."""
        blank = lambda one: torch.empty(one.shape, dtype=one.dtype, device="meta")  # noqa: E731
        parts = {p: [*map(blank, of)] for p, of in self.sources.items()}
        return tuple(self._made(parts, self.wanted).shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return sum(one.nbytes for of in self.sources.values() for one in of)

    def read(self, shape: tuple[int, ...], *dtypes: torch.dtype) -> Tensor:
        """As `StoredTensor.read`."""
        parts = {p: [*map(_read, of)] for p, of in self.sources.items()}
        found = self._made(parts, self.wanted)
        if tuple(found.shape) != shape or found.dtype not in dtypes:
            raise ValueError(f"'{self.name}' is made {tuple(found.shape)} {found.dtype}")
        return found

    def read_one(self, number: int) -> Tensor:
        """Its matrix of a number along the first axis; that of the others is not read."""
        if all(len(one.shape) == len(self.wanted) for of in self.sources.values() for one in of):
            # Each of them has all numbers.
            parts = {
                p: [one.read_one(number)[None] for one in of] for p, of in self.sources.items()
            }
        else:
            parts = {p: [_read(of[number])] for p, of in self.sources.items()}
        return self._made(parts, (1, *self.wanted[1:]))[0]

    def _made(self, tensors: dict[str, list[Tensor]], wanted: tuple[int, ...]) -> Tensor:
        """What the rule makes of tensors, whose lists it may have along the first axis.

        Args:
            wanted: the shape in a model that wants what is made; some rules look at it.
        """
        blank = torch.empty(wanted, device="meta")
        model, made = SimpleNamespace(get_parameter=lambda name: blank), cast(Any, tensors)
        for operation in self.rule.operations:
            made = operation.convert(
                made,
                source_patterns=self.rule.source_patterns,
                target_patterns=self.rule.target_patterns,
                full_layer_name=self.name,
                model=model,
                config=self.config,
                missing_keys=None,
            )
        (found,) = made.values()
        return found[0] if isinstance(found, list) else found


def as_in_model(
    model: nn.Module, stored: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor | MergedTensor]:
    """The tensors of files, by the names that they have in a model of the library.

    Those that it knows nothing of keep theirs.

    Args:
        model: of `transformers`, without numbers.

    Raises:
        ValueError: a tensor that is made of several lacks one of them, or they do not fit.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    rules = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    renaming = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    merging = [rule for rule in rules if isinstance(rule, WeightConverter)]
    own, prefix = model.state_dict(keep_vars=True), str(model.base_model_prefix)
    found: dict[str, StoredTensor | MergedTensor] = {}
    parts: dict[str, dict[str, list[StoredTensor]]] = {}
    for name in sorted(stored, key=dot_natural_key):
        new, pattern = rename_source_key(name, renaming, merging, prefix, own)
        if pattern is not None and new in own:
            parts.setdefault(new, {}).setdefault(pattern, []).append(stored[name])
        elif pattern is None and new in own and new not in stored and new not in found:
            found[new] = stored[name]
        else:
            found[name] = stored[name]
    for name, sources in parts.items():
        (rule,) = (one for one in merging if {*sources} <= {*one.source_patterns})
        merged = MergedTensor(name, rule, sources, tuple(own[name].shape), model.config)
        found[name] = _checked(merged)
    return found


def _checked(merged: MergedTensor) -> MergedTensor:
    """The tensor, if its parts are whole and make one of the wanted shape."""
    every = [one for of in merged.sources.values() for one in of]
    lacking = [p for p in merged.rule.source_patterns if p not in merged.sources]
    counts, dtypes = {len(of) for of in merged.sources.values()}, {one.dtype for one in every}
    try:
        fits = not lacking and len(counts) == len(dtypes) == 1 and merged.shape == merged.wanted
    except Exception:  # Operations of the library, on other shapes or with other results.
        fits = False
    if not fits:
        raise ValueError(
            f"'{merged.name}' {merged.wanted} is made of {len(every)} tensors in the files, such "
            f"as '{every[0].name}' {every[0].shape} {every[0].dtype}: they do not fit, or one is "
            "missing"
        )
    return merged


def _read(stored: StoredTensor) -> Tensor:
    return stored.read(stored.shape, stored.dtype)
