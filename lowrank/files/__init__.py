"""File formats and paths: atomic writes, no pickle, and checks of everything that is read."""
