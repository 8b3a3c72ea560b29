"""The format of torch.export.save: a program as JSON, and its tensors beside it."""
