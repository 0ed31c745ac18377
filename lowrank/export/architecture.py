"""The architecture of a model of transformers in a file: its class and its config, from which the
model is built again without its weights.

A config comes from a file that others may have made. So it may name no class outside of
transformers and nothing that is fetched from a hub, and it is built on the meta device first, where
tensors take no memory, with no more parameters than the file has.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lowrank.export.blank_parameters import limited, on_meta
from lowrank.files.extras import need
from lowrank.files.fields import Fields, shown
from lowrank.numerics.storage import dtype_name

LIBRARY = "transformers"
# Implementations of attention that come with the library; others name code on a hub.
ATTENTION = ("eager", "sdpa")
DTYPES = {"float64": torch.float64, "float32": torch.float32}
DTYPES |= {"float16": torch.float16, "bfloat16": torch.bfloat16}
# Fields of configs by which code or weights are fetched, or code is chosen.
FETCHES = ("auto_map", "custom_pipelines", "quantization_config", "kernel_config")
FETCHES += ("use_pretrained_backbone",)
CODE_OF_A_HUB = "_implementation"  # In the names of fields.
# A config may make a list of as many entries as an integer says. Larger ones are given as floating
# point, which counts nothing: they are bases of rotary embeddings and the like.
LONGEST = 2**24
INSTEAD = "give the dense model, or what builds it: load(path, model)"


@dataclass(frozen=True)
class Architecture:
    """A class of transformers and what it is built from.

    Attributes:
        name: of the class, such as ``LlamaForCausalLM``.
        config, generation: its configs as JSON; no `generation` if it generates nothing.
        dtype: of most of its weights.
        attention: the implementation, one of `ATTENTION`; None for the library's choice.
        buffers: names of buffers that no file holds → their dtypes.
    """

    name: str
    config: dict[str, Any]
    generation: dict[str, Any] | None
    dtype: str
    attention: str | None
    buffers: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Its description in a file."""
        return {"library": LIBRARY, **vars(self)}

    @classmethod
    def of(cls, fields: Fields) -> Architecture:
        """The architecture that a file describes.

        Raises:
            FieldError: the description is not as written here, or names code or weights elsewhere.
        """
        fields.only("library", *cls.__annotations__)
        fields.one_of("library", (LIBRARY,))
        config, buffers = fields.fields("config"), fields.fields("buffers")
        _check_own(config)
        generation = None if fields["generation"] is None else fields.fields("generation")
        attention = fields["attention"]
        return cls(
            fields.text("name"),
            dict(config),
            None if generation is None else dict(generation),
            fields.one_of("dtype", DTYPES),
            None if attention is None else fields.one_of("attention", ATTENTION),
            {name: buffers.one_of(name, DTYPES) for name in buffers},
        )

    def blank(self, most: int) -> nn.Module:
        """The model with all tensors on the meta device.

        Args:
            most: parameters that it may have.

        Raises:
            ValueError: it cannot be built.
        """
        with torch.device("meta"), limited(most):
            return self._built()

    def built(self) -> nn.Module:
        """The model in eval mode, its parameters on the meta device and its buffers on the CPU.

        Raises:
            ValueError: it cannot be built.
        """
        with on_meta():
            model = self._built()
        named = dict(model.named_buffers())
        for name, dtype in self.buffers.items():
            if name in named:
                path, _, own = name.rpartition(".")
                module = model.get_submodule(path)
                module._buffers[own] = named[name].to(DTYPES[dtype])
        return model.eval()

    def _built(self) -> nn.Module:
        need(f"the {self.name} that the file holds", LIBRARY, instead=INSTEAD)
        from transformers import GenerationConfig

        cls = self._class()
        try:
            # Whatever it draws at random is not used.
            with torch.random.fork_rng(devices=[]), _offline():
                config = cls.config_class.from_dict(_bounded(self.config))
                own = {} if self.attention is None else {"attn_implementation": self.attention}
                model = cls._from_config(config, dtype=DTYPES[self.dtype], **own)
                if self.generation is not None:
                    model.generation_config = GenerationConfig.from_dict(dict(self.generation))
                return model
        except Exception as error:  # Code of hundreds of models, on a config of any content.
            why = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise ValueError(
                f"{self.name} cannot be built from its config: {why}. Otherwise {INSTEAD}"
            ) from error

    def _class(self) -> Any:
        import transformers

        found: Any = getattr(transformers, self.name, None) if self.name.isidentifier() else None
        if not _is_own(found):
            raise ValueError(
                f"it holds a {shown(self.name)}, which transformers {transformers.__version__} "
                f"does not have as a model: install a version that has it, or {INSTEAD}"
            )
        if self.config.get("model_type") != found.config_class.model_type:
            kind = shown(self.config.get("model_type"))
            raise ValueError(f"its config is of model_type {kind}, which is none of {self.name}")
        return found


def architecture_of(model: nn.Module) -> Architecture | None:
    """The architecture of a model, or None if it is no model of transformers itself: a class of
    somebody else's code is built by that code only."""
    if LIBRARY not in sys.modules or not _is_own(type(model)):
        return None
    plain: Any = model
    config = json.loads(plain.config.to_json_string(use_diff=False))
    if fetching(config):
        return None
    generation = getattr(plain, "generation_config", None)
    attention = plain.config._attn_implementation
    return Architecture(
        type(model).__name__,
        _without_paths(config),
        None if generation is None else json.loads(generation.to_json_string(use_diff=True)),
        dtype_name(_usual_dtype(model)),
        attention if attention in ATTENTION else None,
        {
            name: dtype_name(buffer.dtype)
            for name, buffer in _derived(model).items()
            if buffer.is_floating_point()
        },
    )


def _is_own(cls: Any) -> bool:
    """Whether it is a class of a model that comes with transformers."""
    import transformers

    return (
        isinstance(cls, type)
        and issubclass(cls, transformers.PreTrainedModel)
        and cls.__module__.startswith("transformers.models.")
        and getattr(transformers, cls.__name__, None) is cls
        and cls.config_class is not None
    )


def _derived(model: nn.Module) -> dict[str, torch.Tensor]:
    """The buffers that no file holds."""
    stored = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name not in stored}


def _usual_dtype(model: nn.Module) -> torch.dtype:
    """The dtype that most numbers of the weights have."""
    from lowrank.model.factorized import FactorizedLayer

    counts: dict[torch.dtype, int] = {}
    for module in model.modules():
        if isinstance(module, FactorizedLayer):
            rows, columns = module.factorization.shape
            dtype = module.factorization.dtype
            counts[dtype] = counts.get(dtype, 0) + rows * columns
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and ".factorization." not in f".{name}":
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    known = {dtype: count for dtype, count in counts.items() if dtype in DTYPES.values()}
    return max(known, key=lambda dtype: known[dtype], default=torch.float32)


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A config without the place that it came from, which may be a folder of this machine."""
    return {
        name: _without_paths(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name != "_name_or_path"
    }


def fetching(config: Any) -> list[str]:
    """The fields by which something outside of the library would be fetched or run."""
    found = []
    inner = config.values() if isinstance(config, dict) else config
    for name in config if isinstance(config, dict) else ():
        if (name in FETCHES or CODE_OF_A_HUB in name) and config[name] not in (None, False):
            found.append(name)
    if isinstance(config, str) and config.lower().startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        found.append(config)
    if isinstance(config, dict | list):
        found += [name for value in inner for name in fetching(value)]
    return found


def _check_own(config: Fields) -> None:
    found = fetching(config.value)
    if found:
        raise ValueError(
            f"its config has {shown(found[0])}, by which code or weights of others would be used: "
            f"{INSTEAD}"
        )


def _bounded(config: Any) -> Any:
    """A copy of a config in which no integer is long."""
    if isinstance(config, dict):
        return {name: _bounded(value) for name, value in config.items()}
    if isinstance(config, list):
        return [_bounded(value) for value in config]
    is_long = isinstance(config, int) and abs(config) > LONGEST
    return float(config) if is_long else config


@contextmanager
def _offline() -> Iterator[None]:
    """Ask no hub for anything inside."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
