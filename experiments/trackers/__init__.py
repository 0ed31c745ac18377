"""Mirrors of the records in experiment trackers; never their only copy."""

from experiments.trackers.mirrors import log_point as log_point
from experiments.trackers.mirrors import log_sweep as log_sweep
from experiments.trackers.tensorboard import TensorBoardTracker as TensorBoardTracker
from experiments.trackers.tracker import NoTracker as NoTracker
from experiments.trackers.tracker import Tracker as Tracker
from experiments.trackers.wandb import WandbTracker as WandbTracker
