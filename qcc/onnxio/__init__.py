"""Read and write ONNX."""
