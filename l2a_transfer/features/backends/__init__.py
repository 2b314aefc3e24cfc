"""One file a way to compute features: PyTorch, ONNX Runtime, the pixels themselves."""
