"""Compression of a model: one walk over its weights, and the report of the result."""
