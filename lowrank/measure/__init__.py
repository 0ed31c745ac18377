"""Measures of dense and compressed models: size, MACs, latency, memory and harness scores."""

from lowrank.measure.bandwidth import read_bandwidth as read_bandwidth
from lowrank.measure.free_memory import free_memory as free_memory
from lowrank.measure.harness import harness_scores as harness_scores
from lowrank.measure.latency import LatencyComparison as LatencyComparison
from lowrank.measure.latency import compare_latency as compare_latency
from lowrank.measure.macs import layer_macs as layer_macs
from lowrank.measure.macs import macs as macs
from lowrank.measure.memory import peak_memory as peak_memory
from lowrank.measure.size import body_bytes as body_bytes
from lowrank.measure.size import nbytes as nbytes
from lowrank.measure.size import params as params
from lowrank.measure.size import stored_dtype as stored_dtype
from lowrank.measure.size import trainable_bytes as trainable_bytes
from lowrank.measure.size import trainable_params as trainable_params
