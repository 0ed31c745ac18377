"""Metrics: the name, the scale and the direction (higher or lower is better) of a number."""

from lowrank.metrics.metric import Metric as Metric
