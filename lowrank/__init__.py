"""What each way of shrinking a neural network's weights costs, and what it saves."""
