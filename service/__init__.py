"""The web service and its command."""
