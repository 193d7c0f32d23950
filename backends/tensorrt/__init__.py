"""The TensorRT export target."""
