"""One measured point: a dense and a compressed model side by side, in the form of a record."""

from lowrank.point.computing import computing as computing
from lowrank.point.measure import Measured as Measured
from lowrank.point.measure import compare as compare
from lowrank.point.measure import measure as measure
from lowrank.point.measure import measure_model as measure_model
from lowrank.point.measure import ratios as ratios
from lowrank.point.point import measure_point as measure_point
from lowrank.point.quality import Evaluation as Evaluation
from lowrank.point.quality import evaluate as evaluate
from lowrank.point.room import check_room as check_room
from lowrank.point.settings import Generation as Generation
from lowrank.point.settings import MeasureSettings as MeasureSettings
from lowrank.point.settings import Optimize as Optimize
