"""What a network is here: a graph of calls and its tensors, and how they run."""
