"""The training of dense and of compressed models: recipe, options, loop, and going on later."""
