"""The weights of a model: where they are, which are selected, what runs in their place."""
