"""Files that appear whole, hold no pickle, and are read with suspicion."""
