"""The weights of a model: finding them, selecting them, and replacing their layers."""
