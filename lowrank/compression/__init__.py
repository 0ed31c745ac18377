"""The one walk over a model that compresses it, and its report."""
