"""The TorchScript format: the archive, its code and its pickle."""
