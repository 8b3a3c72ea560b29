"""Plan to bytes: formats, and encodings of the numbers in them."""
