"""TensorBoard: event files, which it shows from disk."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.trackers.contents import shown
from experiments.trackers.tracker import Record, Tracker, labels_of, name_of, numbers_of
from lowrank.files.extras import need
from lowrank.files.names import stems


@dataclass(frozen=True)
class TensorBoardTracker(Tracker):
    """TensorBoard.

    Each point is a run, with its settings and measures in the tab of hyperparameters. One run of
    the sweep has the tables as text and the figures of quality against size as images.

    Args:
        folder: where the event files are written, a folder for each sweep; `tensorboard --logdir`
            shows it.
    """

    folder: str

    def __post_init__(self) -> None:
        need("this tracker", "tensorboardX", instead="take tracker=off")

    def log_point(self, record: Record, sweep: str) -> None:
        with self._writer(sweep, name_of(record), record["key"]) as writer:
            # In the folder of the run, and not in one of its own below it.
            writer.add_hparams(labels_of(record), numbers_of(record), name=".", global_step=0)

    def log_sweep(self, folder: str, sweep: str) -> None:
        import numpy as np
        from PIL import Image

        with tempfile.TemporaryDirectory() as pictures, self._writer(sweep, "sweep") as writer:
            for part in shown(folder, Path(pictures)):
                for kind, table in (("summary", part.summary), ("points", part.points)):
                    writer.add_text(f"{part.name}/{kind}", table.to_markdown())
                with Image.open(part.figure) as image:
                    pixels = np.asarray(image.convert("RGB"))
                writer.add_image(f"{part.name}/quality", pixels, dataformats="HWC")

    def _writer(self, sweep: str, *name: str) -> Any:
        from tensorboardX import SummaryWriter

        places = [stems([words])[0] for words in ([sweep], list(name))]
        return SummaryWriter(str(Path(self.folder).joinpath(*places)))
