"""Approximations of a matrix in a norm and within a number of bytes, shared by decomposers."""
