"""Matrices and numbers: what knows no factorization, no norm and no model."""
