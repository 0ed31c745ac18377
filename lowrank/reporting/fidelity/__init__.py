"""What averages hide: changed answers, calibration, classes, confidence, and groups of tokens."""

from lowrank.reporting.fidelity.answers import NotDefined as NotDefined
from lowrank.reporting.fidelity.classes import class_table as class_table
from lowrank.reporting.fidelity.losses import loss_table as loss_table
from lowrank.reporting.fidelity.table import fidelity_table as fidelity_table
