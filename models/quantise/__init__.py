"""A layer's numbers as integer levels: which, at what loss, and in how many bits."""
