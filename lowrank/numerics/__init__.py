"""What knows only matrices and numbers: no factorization, no norm, no model."""
