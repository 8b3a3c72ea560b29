"""A client of the service; it needs neither torch nor the server's packages."""
