"""The ONNX format: a table of operators, and the protobuf that its nodes and the tensors are written as."""
