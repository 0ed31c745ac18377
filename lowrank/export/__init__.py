"""Saving and loading of compressed models."""
