"""Networks for eight kinds of task, through the running service: what it says of its files, and a plain script does."""
