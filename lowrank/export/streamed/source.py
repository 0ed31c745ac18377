"""The checkpoint that is compressed: its model without numbers, and its tensors one by one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.export.architecture import DTYPES, LIBRARY, Architecture, fetching
from lowrank.export.blank_parameters import check_buffers
from lowrank.export.streamed.merged import MergedTensor, as_in_model
from lowrank.files.extras import need
from lowrank.files.fields import Fields, parse, shown
from lowrank.model.contents import names_of, split_extra
from lowrank.model.copying import copied
from lowrank.model.opened import open_weights
from lowrank.model.opened.stacked import stacked_weights
from lowrank.numerics.checks import check_one_of
from lowrank.numerics.memo import model_fingerprint
from lowrank.numerics.storage import dtype_name
from lowrank.reading.read import DERIVED
from lowrank.reading.shards import checkpoint_tensors
from lowrank.reading.stored import StoredTensor

CONFIG, GENERATION = "config.json", "generation_config.json"
# Floating-point tensors are read from any of these, and converted.
REALS = tuple(DTYPES.values())


class CheckpointSource:
    """A folder of `transformers`.

    Args:
        dtype: of the weights, a name in `DTYPES`; None for that of the config, or else that of most
            numbers in the files.

    Attributes:
        model: without its weights, in eval mode.
        names: of all tensors of the model that are stored, each memory once.

    Raises:
        ValueError: files are missing or damaged, hold other tensors than the model of the config,
            or that model is none that comes with `transformers`.
        MissingExtra: `transformers` is not installed.
    """

    def __init__(self, folder: Path, dtype: str | None) -> None:
        need("a model of a folder", LIBRARY)
        if dtype is not None:
            check_one_of("dtype", dtype, DTYPES)
        if not (folder / CONFIG).is_file():
            raise ValueError(f"{folder} has no {CONFIG}: name the folder of a model")
        self.folder = folder
        stored = checkpoint_tensors(folder)
        self._stored: dict[str, StoredTensor | MergedTensor] = {**stored}
        architecture = self._architecture(dtype)
        count = 8 * (len(self._stored) + 1)
        try:
            empty = architecture.blank(count)
            check_buffers(empty, sum(stored.nbytes for stored in self._stored.values()))
            self.model = architecture.built()
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        try:
            self._stored = as_in_model(self.model, stored)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        self._index(self.model)
        self._check()
        self._modules = dict(self.model.named_modules(remove_duplicate=False))
        # With all experts apart, those that nobody chooses too.
        self._entire = open_weights(self.model).model
        self._parts = stacked_weights(self._entire)
        self._blank = dict(self._entire.named_parameters(remove_duplicate=False))

    def open(self, model: nn.Module) -> None:
        """Go on with the same model, of which modules are opened; see `lowrank.model.opened`.

        Raises:
            ValueError: a weight in it is a part of a tensor of which no single parts are read.
        """
        self._index(model)
        others = [n for n in self.names if n not in self._parts and not any(self._in_files(n))]
        weights = [name for name in others if isinstance(self._state[name], nn.Parameter)]
        if weights:
            raise ValueError(
                f"{names_of(weights)} are parts of fused tensors, which are not read one by one: "
                "leave them out with `where`, or compress in memory"
            )
        self.model = model

    def _index(self, model: nn.Module) -> None:
        # Of each tensor of the model, its names in it.
        self._names: dict[int, list[str]] = {}
        state, extra = split_extra(model.state_dict(keep_vars=True))
        if extra:
            raise ValueError(
                f"{self.folder}: no checkpoint holds the extra state {names_of([*extra])}"
            )
        for name, tensor in state.items():
            self._names.setdefault(id(tensor), []).append(name)
        self._state = state
        self.names = [names[0] for names in self._names.values()]

    def tensor(self, name: str) -> Tensor:
        """A tensor of the model, perhaps without numbers."""
        return self._state[name]

    def has(self, name: str) -> bool:
        """Whether the model has a tensor of this name."""
        return name in self._state

    def read(self, name: str) -> Tensor:
        """The numbers of a tensor of the model, in the dtype that it has there.

        Raises:
            ValueError: the file has changed.
        """
        if name in self._parts:
            return self._read_part(name)
        own = self._state[name]
        shape, dtypes = tuple(own.shape), REALS if own.is_floating_point() else (own.dtype,)
        found = next(self._in_files(name), None)
        if found is None:
            return own  # A buffer that the model itself makes.
        return self._stored[found].read(shape, *dtypes).to(own.dtype)

    @cached_property
    def fingerprint(self) -> str:
        """What `model_fingerprint` says of the model in memory; each tensor is read once."""
        return model_fingerprint(self._entire, self._numbers)

    def _numbers(self, name: str, tensor: Tensor) -> Tensor:
        """Those of a tensor of the model in which all is opened."""
        if name in self._parts or name in self._state:
            return self.read(name)
        return self._opened(name) if tensor.is_meta else tensor

    def _opened(self, name: str) -> Tensor:
        """A parameter that opening makes of others, such as a half of those of attention."""
        path = name
        while path and path not in self._modules:
            path = path.rpartition(".")[0]
        module = copied(self._modules[path]).model
        for inner, one in module.named_modules(prefix=path):
            for own, blank in one._parameters.items():
                if blank is not None:
                    numbers = self.read(f"{inner}.{own}".lstrip("."))
                    one._parameters[own] = nn.Parameter(numbers, blank.requires_grad)
        opened = open_weights(module).model
        return opened.get_parameter(name.removeprefix(path).lstrip("."))

    def _read_part(self, name: str) -> Tensor:
        """A matrix that lies in a tensor of several, such as that of one expert."""
        fused, number, is_transposed = self._parts[name]
        matrix = self._stored[fused].read_one(number).to(self._blank[name].dtype)
        return matrix.T.contiguous() if is_transposed else matrix

    def _in_files(self, name: str) -> Iterator[str]:
        """The names under which the files have a tensor."""
        return (one for one in self._names[id(self._state[name])] if one in self._stored)

    def _architecture(self, dtype: str | None) -> Architecture:
        config = self._json(CONFIG)
        if config.get("quantization_config") is not None:
            raise ValueError(
                f"{self.folder} is compressed already, as its {CONFIG} says: read it with "
                "lowrank.read_compressed, and compress that"
            )
        others = fetching(config.value)
        if others:
            raise ValueError(
                f"the {CONFIG} of {self.folder} has {shown(others[0])}, by which code or weights "
                "of others would be used: load the model yourself, and compress it in memory"
            )
        names = config.texts("architectures") if config.get("architectures") else []
        if len(names) != 1:
            raise ValueError(
                f"the {CONFIG} of {self.folder} names the classes {names}: it must name one, as "
                "architectures"
            )
        own = dtype or config.get("dtype") or config.get("torch_dtype") or self._usual_dtype()
        described = {
            "library": LIBRARY,
            "name": names[0],
            "config": config.value,
            "generation": self._json(GENERATION).value if self._has_generation else None,
            "dtype": own,
            "attention": None,
            "buffers": {},
        }
        return Architecture.of(Fields(described, f"the {CONFIG} of {self.folder}"))

    @property
    def _has_generation(self) -> bool:
        return (self.folder / GENERATION).is_file()

    def _json(self, name: str) -> Fields:
        text = (self.folder / name).read_bytes()
        return Fields(parse(text, str(self.folder / name), numbers=False), f"{self.folder / name}")

    def _usual_dtype(self) -> str:
        """The dtype that most bytes of the files have."""
        sizes: dict[Any, int] = {}
        for stored in self._stored.values():
            if stored.dtype in REALS:
                sizes[stored.dtype] = sizes.get(stored.dtype, 0) + stored.nbytes
        return dtype_name(max(sizes, key=lambda one: sizes[one], default=torch.float32))

    def _check(self) -> None:
        """Raise ValueError unless the files hold the tensors of the model."""
        kind = type(self.model).__name__
        missing = [
            name
            for name in self.names
            if isinstance(self._state[name], nn.Parameter) and not any(self._in_files(name))
        ]
        surplus = [n for n in self._stored if n not in self._state and not n.endswith(DERIVED)]
        if missing or surplus:
            raise ValueError(
                f"the files of {self.folder} are not those of a {kind}: they lack "
                f"{names_of(missing)} and have {names_of(surplus)} besides"
            )
        for name in self.names:
            same = [self._stored[other] for other in self._in_files(name)]
            for stored in same:
                self._check_same(stored, self._state[name])
            for other in same[1:]:
                if not torch.equal(*(s.read(s.shape, s.dtype) for s in (same[0], other))):
                    raise ValueError(
                        f"'{same[0].name}' and '{other.name}' are one tensor in a {kind} and "
                        f"differ in the files of {self.folder}: set tie_word_embeddings to false "
                        f"in its {CONFIG}, or leave one of them out"
                    )

    def _check_same(self, stored: StoredTensor | MergedTensor, own: Tensor) -> None:
        """Raise ValueError unless a tensor of the files can be one of the model."""
        is_real = own.is_floating_point()
        fits = stored.dtype in REALS if is_real else stored.dtype == own.dtype
        if stored.shape != tuple(own.shape) or not fits:
            raise ValueError(
                f"'{stored.name}' is {stored.shape} {stored.dtype} in the files of {self.folder}, "
                f"and {tuple(own.shape)} {own.dtype} in a {type(self.model).__name__}"
            )
