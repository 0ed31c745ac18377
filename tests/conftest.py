"""Settings for all tests."""

import torch
from hypothesis import settings

# Test processes run side by side; threads of their own would only get in each other's way.
torch.set_num_threads(1)

# The same examples every time, so that a change alone decides whether the tests pass, and slow
# machines may be slow; `pytest --hypothesis-profile=explore` looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("repeatable")
