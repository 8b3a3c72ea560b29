"""How good a file is, and how near one network's outputs are to another's."""
