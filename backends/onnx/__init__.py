"""The ONNX export target."""
