"""Calibration: the pass over data that gives the statistics behind the norms."""

from lowrank.calibration.calibrated_norms import CalibratedNorms as CalibratedNorms
from lowrank.calibration.data import Batches as Batches
from lowrank.calibration.data import CalibrationData as CalibrationData
from lowrank.calibration.data import TaskData as TaskData
from lowrank.calibration.data import at_hand as at_hand
from lowrank.calibration.named_norms import best_norm as best_norm
from lowrank.calibration.named_norms import norm_named as norm_named
from lowrank.calibration.provider import IdentityNorms as IdentityNorms
from lowrank.calibration.provider import Job as Job
from lowrank.calibration.provider import NormProvider as NormProvider
from lowrank.calibration.statistics import Calibration as Calibration
from lowrank.calibration.statistics import Statistics as Statistics
