"""The HTTP interface: a module for each kind of resource."""
