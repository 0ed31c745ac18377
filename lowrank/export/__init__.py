"""A compressed model as a file."""
