"""Ship a trained model as graphs of ONNX, with a runner that keeps the skipping."""
