"""How a weight becomes a factorization: one method, one file."""

from lowrank.decomposers.decomposer import Decomposer as Decomposer
from lowrank.decomposers.truncated_svd import TruncatedSVD as TruncatedSVD
