"""Factorizations: leaves (dense, sparse, quantized, …) and their products and sums."""

from lowrank.factorizations.block_diagonal import BlockDiagonal as BlockDiagonal
from lowrank.factorizations.block_diagonal import DirectSum as DirectSum
from lowrank.factorizations.block_grid import BlockGrid as BlockGrid
from lowrank.factorizations.channel_product import ChannelProduct as ChannelProduct
from lowrank.factorizations.codebook import Codebook as Codebook
from lowrank.factorizations.combinations import Product as Product
from lowrank.factorizations.combinations import Scaled as Scaled
from lowrank.factorizations.combinations import Sum as Sum
from lowrank.factorizations.entropy_coded import EntropyCoded as EntropyCoded
from lowrank.factorizations.factorization import Dense as Dense
from lowrank.factorizations.factorization import Factorization as Factorization
from lowrank.factorizations.factorization import Leaf as Leaf
from lowrank.factorizations.factorization import adapters as adapters
from lowrank.factorizations.factorization import rebuild as rebuild
from lowrank.factorizations.half import Half as Half
from lowrank.factorizations.packing import Layout as Layout
from lowrank.factorizations.permuted_product import PermutedProduct as PermutedProduct
from lowrank.factorizations.quantized import Quantized as Quantized
from lowrank.factorizations.recoding import recoded as recoded
from lowrank.factorizations.reordered_columns import ReorderedColumns as ReorderedColumns
from lowrank.factorizations.row_scales import NormalizedRows as NormalizedRows
from lowrank.factorizations.row_scales import ScaledRows as ScaledRows
from lowrank.factorizations.scaled_columns import ScaledColumns as ScaledColumns
from lowrank.factorizations.scaled_levels import ScaledLevels as ScaledLevels
from lowrank.factorizations.sparse import Sparse as Sparse
from lowrank.factorizations.tunable import Tunable as Tunable
