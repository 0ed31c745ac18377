"""The modules that replace layers and run a factorization."""

from lowrank.model.factorized.attention import (
    FactorizedMultiheadAttention as FactorizedMultiheadAttention,
)
from lowrank.model.factorized.bilinear import FactorizedBilinear as FactorizedBilinear
from lowrank.model.factorized.convolution import FactorizedConvolution as FactorizedConvolution
from lowrank.model.factorized.convolution import convolution as convolution
from lowrank.model.factorized.embedding import FactorizedEmbedding as FactorizedEmbedding
from lowrank.model.factorized.layer import FactorizedLayer as FactorizedLayer
from lowrank.model.factorized.linear import FactorizedConv1D as FactorizedConv1D
from lowrank.model.factorized.linear import FactorizedLinear as FactorizedLinear
from lowrank.model.factorized.read import FactorizedRead as FactorizedRead
