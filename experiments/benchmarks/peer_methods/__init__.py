"""The methods that `experiments.benchmarks.peers` compares, each behind one small interface."""
