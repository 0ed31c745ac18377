"""Compression of a checkpoint from disk to disk: one weight is in memory at a time."""

from lowrank.export.streamed.calibrate import calibrate_checkpoint as calibrate_checkpoint
from lowrank.export.streamed.compress import compress_checkpoint as compress_checkpoint
from lowrank.export.streamed.report import CompressedCheckpoint as CompressedCheckpoint
