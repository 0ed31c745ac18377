"""The networks of the built-in tasks, one file for each family."""
