"""Execution of a compressed model: kernels, the choice of the fastest one, and the plan of both."""

from lowrank.execution.compiled import CompiledKernel as CompiledKernel
from lowrank.execution.kernel import ACCURACIES as ACCURACIES
from lowrank.execution.kernel import Accuracy as Accuracy
from lowrank.execution.kernel import Goal as Goal
from lowrank.execution.kernel import Kernel as Kernel
from lowrank.execution.kernel import Prepared as Prepared
from lowrank.execution.kernel import Work as Work
from lowrank.execution.kernels import KERNELS as KERNELS
from lowrank.execution.optimize import Optimized as Optimized
from lowrank.execution.optimize import optimize_for as optimize_for
from lowrank.execution.plan import ExecutionPlan as ExecutionPlan
from lowrank.execution.plan import LayerPlan as LayerPlan
from lowrank.execution.plan import Trial as Trial
from lowrank.execution.search import Search as Search
from lowrank.execution.tiled import TiledKernel as TiledKernel
