"""Models, configurations and tokenizers of the transformers library, by hub name or folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from lowrank.tasks import hub

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

T = TypeVar("T")


def load_config(name: str, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a model.

    Raises:
        ValueError: there is no such model.
    """
    from transformers import AutoConfig

    return _load("configuration", AutoConfig.from_pretrained, name, revision)


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """A model's own tokenizer.

    Raises:
        ValueError: there is no such model, or it has no tokenizer.
    """
    from transformers import AutoTokenizer

    return _load("tokenizer", AutoTokenizer.from_pretrained, name, revision)


def load_model(
    auto: Any, name: str, config: PretrainedConfig, dtype: str, revision: str | None = None
) -> nn.Module:
    """A model with its weights, in eval mode on the CPU.

    Args:
        auto: the class of models to load it as, such as `transformers.AutoModelForCausalLM`.
        config: of the model.
        dtype: float32, float16 or bfloat16, whatever the file has.

    Raises:
        ValueError: there is no such model, it is of another class, or weights are missing, which
            the library would make up.
    """
    with quiet():
        model, report = _load(
            f"model for {auto.__name__}",
            auto.from_pretrained,
            name,
            revision,
            config=config,
            dtype=torch_dtype(dtype),
            output_loading_info=True,
        )
    missing = sorted(report["missing_keys"]) + [entry[0] for entry in report["mismatched_keys"]]
    if missing:
        raise ValueError(
            f"model {name!r} lacks {len(missing)} weights of a {type(model).__name__}, such as "
            f"{', '.join(missing[:3])}: it is a model for something else"
        )
    return model.eval()


def make_network(auto: Any, config: PretrainedConfig, dtype: str) -> nn.Module:
    """A model of that configuration whose weights are still to be loaded, in eval mode.

    Raises:
        ValueError: `auto` has no model for this configuration.
    """
    from transformers.initialization import no_init_weights

    # Random numbers for billions of weights would take minutes, and be replaced.
    with torch.random.fork_rng(devices=[]), no_init_weights():
        return auto.from_config(config, dtype=torch_dtype(dtype)).eval()


def torch_dtype(name: str) -> torch.dtype:
    """The dtype called `name`.

    Raises:
        ValueError: it is none of `DTYPES`.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r} must be one of {', '.join(DTYPES)}")
    return DTYPES[name]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's progress bars, which come in the way of a sweep's own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load(what: str, load: Callable[..., T], name: str, revision: str | None, **options: Any) -> T:
    path = hub.model_path(name)
    try:
        return load(path, revision=revision, **options)
    # KeyError: a tokenizer file without the parts that it should have.
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(
            f"no {what} of {name!r} in {path} ({hub.HINT}): {str(error).splitlines()[0]}"
        ) from error
