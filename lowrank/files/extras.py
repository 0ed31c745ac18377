"""Libraries that only a part of this one needs, and what installs them."""

from __future__ import annotations

import importlib.util

# By the name under which each is imported: the extra of pyproject.toml that it is in.
EXTRAS = {
    "PIL": "tasks",
    "datasets": "tasks",
    "filelock": "tasks",
    "huggingface_hub": "tasks",
    "hqq": "peers",
    "hydra": "sweep",
    "jinja2": "reports",
    "joblib": "sweep",
    "lm_eval": "harness",
    "matplotlib": "reports",
    "pandas": "reports",
    "sklearn": "tasks",
    "tabulate": "reports",
    "threadpoolctl": "sweep",
    "torchao": "peers",
    "torchmetrics": "tasks",
    "transformers": "tasks",
    "wandb": "sweep",
}


class MissingExtra(ImportError, ValueError):
    """A library is not installed that something asked for needs; a ValueError, as all that a user
    can put right."""


def need(by: str, *libraries: str, instead: str = "") -> None:
    """Look for libraries before they are imported, and before any work that they are for.

    Args:
        by: who needs them, such as "a data frame".
        libraries: by the names under which they are imported.
        instead: what can be done without them.

    Raises:
        MissingExtra: one is not installed; the text has the command that installs it.
    """
    missing = [name for name in libraries if not _is_installed(name)]
    if missing:
        extras = ",".join(sorted({EXTRAS[name] for name in missing}))
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
