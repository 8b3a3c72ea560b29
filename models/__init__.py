"""What a model is, from untrusted bytes to a measured file. Pure: it knows nothing of HTTP, stores or queues."""
