"""Optional dependencies: which extra of pyproject.toml installs a missing library."""

from __future__ import annotations

import importlib.util

# Import name of a library → the extra of pyproject.toml that has it.
EXTRAS = {
    "PIL": "tasks",
    "compressed_tensors": "exported",
    "datasets": "tasks",
    "filelock": "tasks",
    "gguf": "gguf",
    "huggingface_hub": "tasks",
    "hqq": "peers",
    "hydra": "sweep",
    "jiwer": "texts",
    "joblib": "sweep",
    "lm_eval": "harness",
    "matplotlib": "reports",
    "onnx": "onnx",
    "onnx_ir": "onnx",
    "onnxruntime": "exported",
    "onnxscript": "onnx",
    "optuna": "search",
    "pandas": "reports",
    "pydantic": "sweep",
    "pycocotools": "detection",
    "ray": "ray",
    "sacrebleu": "texts",
    "sklearn": "tasks",
    "soundfile": "sound",
    "submitit": "slurm",
    "tabulate": "reports",
    "tensorboardX": "sweep",
    "threadpoolctl": "sweep",
    "torch_pruning": "cut",
    "torchao": "peers",
    "torchmetrics": "tasks",
    "transformers": "tasks",
    "wandb": "sweep",
}

# Extra → the extras that it installs too.
INCLUDED = {
    "detection": {"tasks"},
    "exported": {"gguf", "onnx", "reports", "sweep", "tasks"},
    "gguf": {"tasks"},
    "harness": {"tasks"},
    "peers": {"reports", "sweep", "tasks"},
    "ray": {"reports", "sweep", "tasks"},
    "search": {"reports", "sweep", "tasks"},
    "slurm": {"reports", "sweep", "tasks"},
    "sound": {"tasks"},
    "sweep": {"reports", "tasks"},
    "texts": {"tasks"},
}


class MissingExtra(ImportError, ValueError):
    """An optional library is needed and not installed.

    A ValueError, like every error that a user can correct.
    """


def need(by: str, *libraries: str, instead: str = "") -> None:
    """Check that libraries are installed, without importing them and before any work.

    Args:
        by: who needs them, such as "a data frame".
        libraries: by the names under which they are imported.
        instead: what can be done without them.

    Raises:
        MissingExtra: one is not installed; the text has the command that installs it.
    """
    missing = [name for name in libraries if not _is_installed(name)]
    if missing:
        needed = {EXTRAS[name] for name in missing}
        included = set().union(*(INCLUDED.get(extra, ()) for extra in needed))
        extras = ",".join(sorted(needed - included))
        verb = "is" if len(missing) == 1 else "are"
        raise MissingExtra(
            f"{by} cannot be had without {' and '.join(missing)}, which {verb} not installed: "
            f"pip install 'lowrank[{extras}]'" + (f", or {instead}" if instead else "")
        )


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # Some finders refuse what they do not have.
        return False
