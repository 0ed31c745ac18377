"""Models, configurations and tokenizers of the transformers library, by hub name or folder."""

from __future__ import annotations

import copy
import pickle
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from lowrank.files.extras import need
from lowrank.numerics.checks import check_flag, check_one_of
from lowrank.tasks import hub
from lowrank.tasks.splits import check_text

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from lowrank.reading import ReadModel

# The most characters shown of the library's errors, some of which list all known models.
LONGEST = 600
# The field of a config that says how another tool has compressed the model.
COMPRESSED = "quantization_config"
WEIGHTS = ("*.safetensors", "*.bin")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

T = TypeVar("T")


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model with its own tokenizer.

    Args:
        name: its name in the mirror or on the hub, or its folder.
        dtype: the dtype of the weights, float32, float16 or bfloat16, whatever the file has.
        revision: a commit on the hub.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        ValueError: another dtype; from the methods, a missing model, or one with its own code,
            which may not run.
    """

    name: str
    dtype: str
    revision: str | None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        check_text("pretrained", self.name)
        check_one_of("dtype", self.dtype, DTYPES)
        if self.revision is not None:
            check_text("revision", self.revision)
        check_flag("trust_remote_code", self.trust_remote_code)
        need("a pretrained model", "transformers", "huggingface_hub")

    @cached_property
    def config(self) -> PretrainedConfig:
        """The model's configuration."""
        from transformers import AutoConfig

        config = self._load("configuration", AutoConfig.from_pretrained)
        # The cache of keys and values only takes memory if no text is generated.
        config.get_text_config().use_cache = False
        if hasattr(config, "apply_spec_augment"):
            # What it hides of sounds in training is drawn by a generator that no seed of ours sets.
            config.apply_spec_augment = False
        return config

    @property
    def vocabulary(self) -> int:
        """The number of tokens for which the model has an embedding."""
        return self.config.get_text_config().vocab_size

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own tokenizer."""
        from transformers import AutoTokenizer

        found = self._load("tokenizer", AutoTokenizer.from_pretrained)
        if len(found) <= len(found.all_special_ids):  # What the library makes of a config alone.
            raise ValueError(
                f"no tokenizer of {self.name!r}: it has special tokens only, since its files are "
                "missing, such as tokenizer.json"
            )
        return found

    @cached_property
    def image_processor(self) -> Any:
        """The model's own image processor."""
        from transformers import AutoImageProcessor

        with quiet():  # It reports which of its backends it takes.
            return self._load("image processor", AutoImageProcessor.from_pretrained)

    @cached_property
    def feature_extractor(self) -> Any:
        """What the model itself makes of sounds."""
        from transformers import AutoFeatureExtractor

        return self._load("feature extractor", AutoFeatureExtractor.from_pretrained)

    def network(self, auto: Any) -> PreTrainedModel:
        """The model without its trained weights, in eval mode on the CPU.

        Args:
            auto: the class that makes it, such as `transformers.AutoModelForCausalLM`.

        Raises:
            ValueError: there is no such model of that class.
        """
        from transformers.initialization import no_init_weights

        # Drawing billions of initial weights would take minutes, and they are replaced.
        with torch.random.fork_rng(devices=[]), no_init_weights():
            model = self._load(
                f"model for {auto.__name__}",
                lambda _, revision, **options: auto.from_config(self.config, **options),
                dtype=DTYPES[self.dtype],
            )
        model.tie_weights()  # Skipped together with the initial weights.
        return model.eval()

    def model(self, auto: Any, unused: str | None = None) -> PreTrainedModel:
        """The model with its weights, in eval mode on the CPU.

        Args:
            unused: a part of the model whose weights may be missing.

        Raises:
            ValueError: it is of another class, or lacks weights, which the library would draw at
                random.
        """
        if self.is_compressed:
            return self.read(auto).model  # type: ignore[return-value]
        with quiet():
            model, report = self._load(
                f"model for {auto.__name__}",
                auto.from_pretrained,
                config=self.config,
                dtype=DTYPES[self.dtype],
                output_loading_info=True,
            )
        missing = [name for name in report["missing_keys"] if name.split(".")[0] != unused]
        missing += [entry[0] for entry in report["mismatched_keys"]]
        if missing:
            raise ValueError(
                f"model {self.name!r} lacks {len(missing)} weights of a {type(model).__name__}, "
                f"such as {', '.join(sorted(missing)[:3])}: it is a model for something else"
            )
        return model.eval()

    @property
    def is_compressed(self) -> bool:
        """Whether another tool has compressed it."""
        return getattr(self.config, COMPRESSED, None) is not None

    def read(self, auto: Any) -> ReadModel:
        """A model that another tool has compressed, with factorizations in its layers.

        Raises:
            ValueError: it is not compressed, or in a way that is not read; files that are damaged,
                or do not fit its config.
        """
        if not self.is_compressed:
            raise ValueError(f"the config of model {self.name!r} has no {COMPRESSED}")
        try:
            return self._read(auto)
        except ValueError as error:
            raise ValueError(f"model {self.name!r}: {error}") from error

    def _read(self, auto: Any) -> ReadModel:
        from lowrank import reading

        scheme = reading.scheme_of(getattr(self.config, COMPRESSED))
        plain = copy.deepcopy(self.config)
        delattr(plain, COMPRESSED)  # The model that is read is no longer stored so.
        here = replace(self)
        here.__dict__["config"] = plain
        with reading.stored_in(hub.model_folder(self.name, self.revision)) as stored:
            depth = getattr(plain.get_text_config(), "num_hidden_layers", 0)
            if depth > len(stored):
                raise ValueError(f"its config has {depth} layers, its files fewer")
            dtype = DTYPES[self.dtype]
            return reading.read_model(stored, scheme, lambda: here.network(auto), dtype)

    def check_weights(self) -> None:
        """Raise ValueError if the model is a folder without a file of weights."""
        folder = Path(hub.model_path(self.name))
        if folder.is_dir() and not any(list(folder.glob(pattern)) for pattern in WEIGHTS):
            files = " or ".join(WEIGHTS)
            raise ValueError(f"model {self.name!r} has no weights: no {files} is in {folder}")

    def check_length(self, name: str, length: int) -> None:
        """Raise ValueError if the model has fewer than `length` positions.

        Args:
            name: the name of the setting, for the error.
        """
        longest = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and length > longest:
            raise ValueError(
                f"{name}={length} is more than the {longest} positions of model {self.name!r}: "
                "lower it"
            )

    def in_dtype(self, tensor: Tensor) -> Tensor:
        """An input, in the dtype of the weights if it is of floating point."""
        return tensor.to(DTYPES[self.dtype]) if tensor.is_floating_point() else tensor

    def check_fast(self, what: str) -> None:
        """Raise ValueError unless the tokenizer is a fast one, which knows the places of tokens.

        Args:
            what: it is needed for, as in "of which word a token is".
        """
        if not self.tokenizer.is_fast:
            raise ValueError(
                f"the tokenizer of model {self.name!r} does not say {what}: it is no fast one, "
                "with a file tokenizer.json"
            )

    def check_ids(self, ids: Tensor) -> None:
        """Raise ValueError if the tokenizer makes tokens for which the model has no embedding."""
        largest = int(ids.max()) if ids.numel() else 0
        if largest >= self.vocabulary:
            raise ValueError(
                f"the tokenizer of model {self.name!r} does not fit it: it makes token {largest}, "
                f"and the model has a vocabulary of {self.vocabulary}"
            )

    def _load(self, what: str, load: Callable[..., T], **options: Any) -> T:
        path = hub.model_path(self.name)
        # Given even if it is the default; otherwise the library asks in the terminal.
        options |= {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        try:
            return load(path, **options)
        except pickle.UnpicklingError as error:
            # Not `from error`: its text advises to load without this protection.
            raise ValueError(
                f"no {what} of {self.name!r} in {path}: a file of it holds more than tensors"
            ) from error
        except Exception as error:  # A value of another type in a file makes it fail in any way.
            why = textwrap.shorten(str(error), LONGEST)
            raise ValueError(f"no {what} of {self.name!r} in {path} ({hub.HINT}): {why}") from error


def auto_class(name: str) -> Any:
    """A class of transformers that makes models, such as AutoModelForCausalLM.

    Raises:
        ValueError: there is none of that name.
    """
    import transformers

    found = getattr(transformers, name, None) if name.startswith("Auto") else None
    if not hasattr(found, "from_config"):
        raise ValueError(f"auto={name!r} must be such a class of transformers, as 'AutoModel'")
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, the library prints no progress bars and reports between those of a sweep."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    # Its report on missing weights is replaced by the error in `model`.
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
