"""Allocation: the choice of a decomposer for each weight of a model, such as under a budget."""

from lowrank.allocation.adapter_ranks import AdapterRanks as AdapterRanks
from lowrank.allocation.allocation import Allocation as Allocation
from lowrank.allocation.allocation import ByName as ByName
from lowrank.allocation.allocation import Plan as Plan
from lowrank.allocation.allocation import Problem as Problem
from lowrank.allocation.allocation import Uniform as Uniform
from lowrank.allocation.budget import Budget as Budget
from lowrank.allocation.budgeted import grid as grid
from lowrank.allocation.global_magnitude import GlobalMagnitude as GlobalMagnitude
from lowrank.allocation.global_rank import GlobalRank as GlobalRank
from lowrank.allocation.kept_energy import KeptEnergy as KeptEnergy
from lowrank.allocation.losses import Loss as Loss
from lowrank.allocation.losses import NormError as NormError
from lowrank.allocation.losses import Sensitivity as Sensitivity
from lowrank.allocation.mixed_allocation import MixedAllocation as MixedAllocation
from lowrank.allocation.outlier_sparsity import OutlierSparsity as OutlierSparsity
from lowrank.allocation.sensitivity_threshold import SensitivityThreshold as SensitivityThreshold
from lowrank.allocation.shared_basis import SharedBasis as SharedBasis
