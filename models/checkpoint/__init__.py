"""Reading uploaded bytes, which are hostile until read. What is what is decided by content, never by name.

| bytes                                  | read by       |
| -------------------------------------- | ------------- |
| `torch.export.save` archive (.pt2)     | `exported`    |
| `torch.save` archive of a state dict   | `statedict`, with an architecture |
| safetensors                            | `statedict`, with an architecture |
| TorchScript, other pickles, the rest   | refused       |

`sandbox.prepare` does all of it in a child process with hard limits: what services call.
"""
