"""What the service does with an upload, done here: for who has none, or does not want to send anything yet."""
