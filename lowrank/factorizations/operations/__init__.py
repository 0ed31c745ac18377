"""Operations of a matrix on data: a linear layer, a convolution or an embedding table.

A factorization is one matrix, whatever kind of layer uses it. An `Operation` applies one dense
matrix; gives the order of the factors of a product and the operation of each; and applies
block-diagonal matrices without their zeros. So every factorization runs in every kind of layer.
"""

from lowrank.factorizations.operations.convolve import KERNEL_VIEWS as KERNEL_VIEWS
from lowrank.factorizations.operations.convolve import Convolve as Convolve
from lowrank.factorizations.operations.convolve import KernelView as KernelView
from lowrank.factorizations.operations.multiply import Lookup as Lookup
from lowrank.factorizations.operations.multiply import Multiply as Multiply
from lowrank.factorizations.operations.multiply import MultiplyAlong as MultiplyAlong
from lowrank.factorizations.operations.multiply import MultiplyBlocks as MultiplyBlocks
from lowrank.factorizations.operations.multiply import MultiplyTransposed as MultiplyTransposed
from lowrank.factorizations.operations.operation import AxisSplit as AxisSplit
from lowrank.factorizations.operations.operation import Operation as Operation
