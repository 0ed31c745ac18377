"""Compression of the weights of neural networks, and a fair comparison of methods for it.

`compress` a model with a decomposer or an allocation, `save` it and `load` it. Everything is
imported when it is first used.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowrank.allocation import *  # noqa: F403
    from lowrank.calibration import CalibratedNorms as CalibratedNorms
    from lowrank.calibration import Calibration as Calibration
    from lowrank.compression.compress import check as check
    from lowrank.compression.compress import compress as compress
    from lowrank.compression.kernel_cache import kernel_cache as kernel_cache
    from lowrank.decomposers import *  # noqa: F403
    from lowrank.execution import optimize_for as optimize_for
    from lowrank.export.checkpoint import load as load
    from lowrank.export.checkpoint import save as save
    from lowrank.export.cutting import cut_model as cut_model
    from lowrank.export.formats.hf.push import push_to_hub as push_to_hub
    from lowrank.export.model_files import export_model as export_model
    from lowrank.export.model_files import plan_export as plan_export
    from lowrank.export.peft import export_peft as export_peft
    from lowrank.export.peft import load_peft as load_peft
    from lowrank.export.streamed import calibrate_checkpoint as calibrate_checkpoint
    from lowrank.export.streamed import compress_checkpoint as compress_checkpoint
    from lowrank.model.plain import plain_model as plain_model
    from lowrank.model.select import Select as Select
    from lowrank.numerics.memo import unchanging as unchanging
    from lowrank.point import MeasureSettings as MeasureSettings
    from lowrank.point import measure_point as measure_point
    from lowrank.tasks.read_compressed import read_compressed as read_compressed

# Where each name is. All decomposers and allocations are found without being listed.
PLACES = {
    "CalibratedNorms": "lowrank.calibration",
    "Calibration": "lowrank.calibration",
    "MeasureSettings": "lowrank.point",
    "Select": "lowrank.model.select",
    "calibrate_checkpoint": "lowrank.export.streamed",
    "check": "lowrank.compression.compress",
    "compress": "lowrank.compression.compress",
    "compress_checkpoint": "lowrank.export.streamed",
    "cut_model": "lowrank.export.cutting",
    "export_model": "lowrank.export.model_files",
    "export_peft": "lowrank.export.peft",
    "plan_export": "lowrank.export.model_files",
    "kernel_cache": "lowrank.compression.kernel_cache",
    "load": "lowrank.export.checkpoint",
    "load_peft": "lowrank.export.peft",
    "measure_point": "lowrank.point",
    "optimize_for": "lowrank.execution",
    "plain_model": "lowrank.model.plain",
    "push_to_hub": "lowrank.export.formats.hf.push",
    "read_compressed": "lowrank.tasks.read_compressed",
    "save": "lowrank.export.checkpoint",
    "unchanging": "lowrank.numerics.memo",
}
METHODS = ("lowrank.decomposers", "lowrank.allocation")


def __getattr__(name: str) -> Any:
    # Modules are asked for here too, before they are imported: those have lower-case names.
    places = [PLACES[name]] if name in PLACES else METHODS if name[0].isupper() else []
    with _no_collection():
        for place in places:
            found = importlib.import_module(place)
            if hasattr(found, name):
                return globals().setdefault(name, getattr(found, name))
    raise AttributeError(f"module 'lowrank' has no attribute {name!r}")


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage inside.

    Imports make many objects and leave none of them. A collection goes through all of torch's to
    find that, in as much time as all the imports take.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def __dir__() -> list[str]:
    methods = [name for place in METHODS for name in vars(importlib.import_module(place))]
    return sorted({*PLACES, *(name for name in methods if name[0].isupper())})
