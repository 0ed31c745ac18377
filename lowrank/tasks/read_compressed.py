"""Models that other tools have compressed, by name, folder or file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lowrank.files.paths import as_path
from lowrank.numerics.checks import check_flag
from lowrank.tasks import hub
from lowrank.tasks.pretrained import DTYPES, Pretrained, auto_class

if TYPE_CHECKING:
    from lowrank.reading import ReadModel

GGUF = ".gguf"
CAUSAL = "AutoModelForCausalLM"


def read_compressed(
    name: str | Path,
    *,
    dtype: str = "float32",
    auto: str = CAUSAL,
    revision: str | None = None,
    multiply_out: bool = False,
) -> ReadModel:
    """A model of the transformers library that another tool has compressed, with its layers as
    factorizations: compressed-tensors (integers), GPTQ, AWQ, bitsandbytes, or a GGUF file of a
    Llama or Qwen2.

    The codes are those of the file. None of the tools is needed but `gguf`, no code runs, and
    nothing large is taken from memory before the files and the config fit each other. The language
    model tasks take such a model too, by its name, if it is no GGUF file. The tokenizer of a GGUF
    file is not read here; exports take it as ``tokenizer="model.gguf"``.

    Args:
        name: its name in the mirror or on the hub, or its folder; a GGUF file by its path, or its
            name behind that of a model in the mirror.
        dtype: of its weights, as they are computed from the codes: float32, float16 or bfloat16.
        auto: the class of transformers that makes the model; a GGUF file is a causal one.
        revision: a commit on the hub.
        multiply_out: whether layers of a GGUF file of further types, such as Q6_K, may become
            dense. Their entries in the report say so.

    Raises:
        ValueError: as `Pretrained.read`; a class that does not exist; of a GGUF file, one that is
            truncated, of another architecture or has other types of tensors, or options that it
            does not have.
    """
    check_flag("multiply_out", multiply_out)
    name = str(as_path(name, "name"))
    if name.endswith(GGUF):
        if auto != CAUSAL or revision is not None:
            raise ValueError(f"{name} is a GGUF file, which takes no `auto` and no `revision`")
        return _read_gguf(name, dtype, multiply_out)
    if multiply_out:
        raise ValueError(f"multiply_out=True is of GGUF files, and {name!r} is none")
    pretrained = Pretrained(name, dtype, revision)
    return pretrained.read(auto_class(auto))


def gguf_file(name: str) -> Path:
    """The GGUF file of a path, or of a name behind that of a model in the mirror.

    Raises:
        ValueError: there is none.
    """
    path = Path(name)
    if not path.is_file():
        path = Path(hub.model_path(str(path.parent)), path.name)
    if not path.is_file():
        raise ValueError(f"there is no file {path}: give the path of a GGUF file")
    return path


def _read_gguf(name: str, dtype: str, multiply_out: bool) -> ReadModel:
    path = gguf_file(name)
    pretrained = Pretrained(str(path.parent), dtype, None)
    from lowrank import reading

    file = reading.open_gguf(path, multiply_out)
    pretrained.__dict__["config"] = file.config
    from transformers import AutoModelForCausalLM

    stored, reader = file.stored(DTYPES[dtype])
    return reading.read_model(
        stored, reader, lambda: pretrained.network(AutoModelForCausalLM), DTYPES[dtype]
    )
