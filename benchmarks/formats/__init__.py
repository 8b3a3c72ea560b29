"""Each format's files in their own runtimes: bytes, agreement, time and memory."""
