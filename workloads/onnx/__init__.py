"""From an ONNX file to the layers that hardware sees."""
