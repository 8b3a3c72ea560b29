"""A layer as nested bases, and what calibration inputs say of it."""
