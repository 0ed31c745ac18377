"""Exported folders on the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

from lowrank.files.extras import need
from lowrank.files.paths import as_path
from lowrank.numerics.checks import check_flag

TOKEN = "HF_TOKEN"


def push_to_hub(
    folder: str | Path, name: str, *, private: bool = True, endpoint: str | None = None
) -> str:
    """Upload a folder of `lowrank.export_model` as a model on the hub, in one commit.

    The token is that of the environment variable HF_TOKEN, which may write to the model.

    Args:
        folder: all its files go; those of the model on the hub that it has not, stay.
        name: ``organisation/model``; made if it is not there.
        private: whether a model that is made can be seen by its organisation alone.
        endpoint: address of the hub; by default that of the environment variable HF_ENDPOINT, or
            huggingface.co.

    Returns:
        The address of the commit.

    Raises:
        ValueError: a folder without files, a name that no model has, or no token.
        MissingExtra: huggingface_hub is not installed.
        OSError: the hub refuses it, or cannot be reached.
    """
    source = as_path(folder, "folder")
    check_flag("private", private)
    check_upload(name)
    if not source.is_dir() or not any(source.iterdir()):
        raise ValueError(f"{source} is no folder with files: export a model into it first")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi(endpoint=endpoint, token=_token())
    try:
        hub.create_repo(name, private=private, exist_ok=True)
        return hub.upload_folder(
            repo_id=name, folder_path=source, commit_message="Add a compressed model"
        ).commit_url
    except (HfHubHTTPError, RuntimeError) as error:
        reason = error.__cause__ or error  # The library wraps what stops the upload of a file.
        raise OSError(f"{hub.endpoint} does not take {source} as {name}: {reason}") from error
    except Exception as error:  # Those of the library of requests have no common kind.
        raise OSError(f"{hub.endpoint} cannot be reached: {error}") from error


def check_upload(name: str) -> None:
    """Raise unless a model can have this name, and there is a token.

    Raises:
        ValueError, MissingExtra: as `push_to_hub`.
    """
    if not isinstance(name, str) or name.count("/") != 1:
        raise ValueError(f"name={name!r} must be the name of a model: 'organisation/model'")
    need("an upload to the hub", "huggingface_hub")
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"name={name!r} is no name of a model: {error}") from error
    _token()


def _token() -> str:
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ValueError(f"the environment variable {TOKEN} holds no token: set it to one of yours")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"the environment variable {TOKEN} holds no token: it has blanks, control characters "
            "or letters beyond ASCII"
        )
    return token
