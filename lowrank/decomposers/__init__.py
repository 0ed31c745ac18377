"""Decomposers, which turn a weight into a factorization: one method, one file."""

from lowrank.decomposers.adapter import Adapter as Adapter
from lowrank.decomposers.adapter import merge as merge
from lowrank.decomposers.alps import ALPS as ALPS
from lowrank.decomposers.alternating_sum import AlternatingSum as AlternatingSum
from lowrank.decomposers.awq import AWQ as AWQ
from lowrank.decomposers.block_low_rank import BlockLowRank as BlockLowRank
from lowrank.decomposers.canonical_polyadic import CanonicalPolyadic as CanonicalPolyadic
from lowrank.decomposers.chain import Chain as Chain
from lowrank.decomposers.codebook_quantization import CodebookQuantization as CodebookQuantization
from lowrank.decomposers.decomposer import Decomposer as Decomposer
from lowrank.decomposers.dora import DoRA as DoRA
from lowrank.decomposers.entropy_coded_quantization import (
    EntropyCodedQuantization as EntropyCodedQuantization,
)
from lowrank.decomposers.entropy_coding import EntropyCoding as EntropyCoding
from lowrank.decomposers.gptq import GPTQ as GPTQ
from lowrank.decomposers.half_precision import HalfPrecision as HalfPrecision
from lowrank.decomposers.hqq import HQQ as HQQ
from lowrank.decomposers.lora import LoRA as LoRA
from lowrank.decomposers.lora_xs import LoRAXS as LoRAXS
from lowrank.decomposers.low_rank_plus_sparse import LowRankPlusSparse as LowRankPlusSparse
from lowrank.decomposers.low_rank_times_sparse import LowRankTimesSparse as LowRankTimesSparse
from lowrank.decomposers.magnitude_pruning import MagnitudePruning as MagnitudePruning
from lowrank.decomposers.monarch import Monarch as Monarch
from lowrank.decomposers.prune_and_quantize import PruneAndQuantize as PruneAndQuantize
from lowrank.decomposers.quantization import Quantization as Quantization
from lowrank.decomposers.quantized_plus_low_rank import (
    QuantizedPlusLowRank as QuantizedPlusLowRank,
)
from lowrank.decomposers.random_pruning import RandomPruning as RandomPruning
from lowrank.decomposers.robust_pca import RobustPCA as RobustPCA
from lowrank.decomposers.shared_lora import SharedLoRA as SharedLoRA
from lowrank.decomposers.sparse_factors import SparseFactors as SparseFactors
from lowrank.decomposers.sparsegpt import SparseGPT as SparseGPT
from lowrank.decomposers.truncated_svd import TruncatedSVD as TruncatedSVD
from lowrank.decomposers.tucker2 import Tucker2 as Tucker2
from lowrank.decomposers.uncompressed import Uncompressed as Uncompressed
from lowrank.decomposers.vera import VeRA as VeRA
