"""Models from elsewhere on two workers: one script each for Hugging Face, ONNX and PyTorch."""
