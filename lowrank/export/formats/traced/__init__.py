"""Formats of recorded programs: the example that a model is run on, and the record of that run."""
