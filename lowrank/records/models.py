"""Model files, which lie beside the records of their points, and the removal of what is left over.

The name of a file holds the key of its point and a hash of its content. The file belongs to the
record that names it. So a point that is measured again never overwrites the model that its record
names; the new record, written atomically, names the new file.
"""

from __future__ import annotations

from pathlib import Path

from lowrank.files.atomic import ABANDONED, clock
from lowrank.records.claims import Claims
from lowrank.records.companions import COMPANIONS, OUTCOMES, outcomes_name, remove
from lowrank.records.files import record_in


def clear(folder: Path) -> None:
    """Remove models and outcomes that killed processes left behind and that no record names.

    They belong to unfinished points, which left a claim, or to points whose record names another
    file or none. A model with neither record nor claim may be a user's own file, and stays; such
    outcomes stay for a day, in which their record may still be written. To be called before
    `Claims.clean`, which removes the claims.

    Raises:
        OSError: the folder cannot be written.
    """
    claims = Claims(folder)
    for path in (*folder.glob("*.safetensors"), *folder.glob("*-*.*/")):
        key = next(filter(None, (kind.key_of(path.name) for kind in COMPANIONS)), None)
        if key is None or path.name in _named(key, folder):
            continue
        was_begun = claims.is_there(key) or _is_abandoned(path)
        with claims.taking(key) as is_ours:
            if is_ours and (was_begun or record_in(key, folder) is not None):
                clear_point(key, folder)


def clear_point(key: str, folder: Path) -> None:
    """Remove the models, their exports and the outcomes of a point that its record does not name;
    the caller holds its claim.
    """
    kept = _named(key, folder)
    for path in (*folder.glob(f"{key}-*.*"), folder / outcomes_name(key)):
        is_own = key in [kind.key_of(path.name) for kind in COMPANIONS]
        if is_own and path.name not in kept:
            remove(path)


def _named(key: str, folder: Path) -> set[str | None]:
    """The files that the record of a point names."""
    record = record_in(key, folder)
    return {kind.named(record) for kind in COMPANIONS}


def _is_abandoned(path: Path) -> bool:
    """Whether no process is about to write the record of these outcomes."""
    if OUTCOMES.key_of(path.name) is None:
        return False
    try:
        return clock(path.parent) - path.stat().st_mtime > ABANDONED
    except FileNotFoundError:
        return False
