"""Norms in which the error of an approximation is measured."""

from lowrank.norms.moments import square_root as square_root
from lowrank.norms.moments import whitened as whitened
from lowrank.norms.norm import IDENTITY as IDENTITY
from lowrank.norms.norm import Diagonal as Diagonal
from lowrank.norms.norm import Full as Full
from lowrank.norms.norm import Identity as Identity
from lowrank.norms.norm import Norm as Norm
from lowrank.norms.norm import damped as damped
from lowrank.norms.norm import ones_or as ones_or
from lowrank.norms.norm import row_squares as row_squares
from lowrank.norms.norm import sizes as sizes
