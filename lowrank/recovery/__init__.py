"""Recovery of quality after compression."""

from lowrank.recovery.batchnorm import BatchNormReestimation as BatchNormReestimation
from lowrank.recovery.fine_tune import FineTune as FineTune
from lowrank.recovery.merge_adapters import merge_adapters as merge_adapters
from lowrank.recovery.recovery import NoRecovery as NoRecovery
from lowrank.recovery.recovery import Recovery as Recovery
