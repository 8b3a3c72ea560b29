"""One trained model in, any size out."""
