"""Location encoders as ONNX, for runtimes without PyTorch."""
