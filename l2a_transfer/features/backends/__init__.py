"""One file per way to compute features: PyTorch, ONNX Runtime, the pixels themselves."""
