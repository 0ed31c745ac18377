"""How a matrix acts on data: as a linear layer, a convolution or an embedding table.

A factorization is one matrix, however a layer uses it. An `Operation` says how one dense matrix is
applied, in which order and each with which operation the factors of a product act, and how what
has structure is applied without its zeros. That is all it takes to run any factorization in any
kind of layer.
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
