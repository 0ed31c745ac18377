"""ONNX: weights as it holds them, and the file of a graph."""
