"""What exists: the store, the catalogue over it, the cache beside it."""
