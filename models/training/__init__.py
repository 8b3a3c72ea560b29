"""Training that shows what the papers say of it; nothing that serves a model needs it."""
