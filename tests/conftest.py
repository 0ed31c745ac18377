"""Settings for all tests."""

import torch

# Test processes run side by side; threads of their own would only get in each other's way.
torch.set_num_threads(1)
