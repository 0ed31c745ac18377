"""Code that goes into folders of `transformers`, where it is run without this library."""
