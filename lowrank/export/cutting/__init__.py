"""Smaller models: channels that carry nothing are cut out of a layer and its neighbours."""

from lowrank.export.cutting.cut import CutLayer as CutLayer
from lowrank.export.cutting.cut import CutModel as CutModel
from lowrank.export.cutting.cut import cut_model as cut_model
