"""Recovery of quality after compression."""

from lowrank.recovery.batchnorm import BatchNormReestimation as BatchNormReestimation
from lowrank.recovery.bias_correction import BiasCorrection as BiasCorrection
from lowrank.recovery.compress_adapters import SmallerAdapter as SmallerAdapter
from lowrank.recovery.compress_adapters import compress_adapters as compress_adapters
from lowrank.recovery.decompose_leaves import DecomposeLeaves as DecomposeLeaves
from lowrank.recovery.fine_tune import FineTune as FineTune
from lowrank.recovery.gradual import Gradual as Gradual
from lowrank.recovery.in_order import InOrder as InOrder
from lowrank.recovery.learning_compression import LearningCompression as LearningCompression
from lowrank.recovery.merge_adapters import merge_adapters as merge_adapters
from lowrank.recovery.merge_adapters import unmerge_adapters as unmerge_adapters
from lowrank.recovery.recode import Recode as Recode
from lowrank.recovery.recovery import NoRecovery as NoRecovery
from lowrank.recovery.recovery import Recovery as Recovery
from lowrank.recovery.task_bank import TaskBank as TaskBank
from lowrank.recovery.thaw_low_rank import ThawLowRank as ThawLowRank
from lowrank.recovery.tune import Tune as Tune
