"""The two papers' own experiments; nothing else calls them."""
