"""The manual: a site made of the pages in docs/, of the library's docstrings and of results/."""
