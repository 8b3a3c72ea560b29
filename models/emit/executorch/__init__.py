"""ExecuTorch's format: a program lowered to the kernels of XNNPACK."""
