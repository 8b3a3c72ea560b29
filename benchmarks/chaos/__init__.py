"""Processes are killed and frozen while clients upload and fetch: what was promised must hold all the same.

__main__.py   the command: both set-ups in turn, the table, the violations
setups.py     the service's processes, on one machine and as a cluster
family.py     processes under /proc
guard.py      ends all of them, should this one be killed
faults.py     what is done to which process, and when
material.py   what is uploaded
clients.py    the load
journal.py    what clients saw
settle.py     asking until everything has ended
verdict.py    what of it must not be
"""
