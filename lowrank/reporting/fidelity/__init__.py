"""What averages hide: changed answers, calibration, classes, and confidence."""

from lowrank.reporting.fidelity.classes import class_table as class_table
from lowrank.reporting.fidelity.table import fidelity_table as fidelity_table
