"""Accuracy lost against the bytes of a file as it is sent: ours, and what else a network can be made small with."""
