"""Linear algebra and optimisation on plain matrices, without factorizations, norms or models."""
