"""Approximations of a matrix in a norm and within bytes: what methods are made of."""
