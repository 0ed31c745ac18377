"""What a number of a record means: its name for people, its scale, and which way is better."""

from lowrank.metrics.metric import Metric as Metric
