"""The records of measured points: their store, their schema, their columns."""

from lowrank.records.store import load as load
from lowrank.records.store import load_layers as load_layers
