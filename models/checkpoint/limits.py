"""How much one upload may take."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds on reading one upload.

    memory: bytes that the reader may allocate on top of what torch itself takes; also the largest file it writes.
    seconds: processor time, and wall-clock time too.
    tensors: tensors in a checkpoint.
    """

    memory: int = 8 << 30
    seconds: int = 600
    tensors: int = 100_000


# What no honest file comes near: the JSON of a graph of 20 000 calls takes about 40 MiB.
JSON_BYTES = 128 * MIB
PICKLE_BYTES = 64 * MIB
NODES = 200_000
# Entries of an archive apart from its tensors: the graph, two lists, the version records.
OTHER_ENTRIES = 64
DIMENSIONS = 8
# Tensors may overlap inside one storage (a view of a fused weight), so their bytes may exceed the file's by this.
OVERLAP_BYTES = 64 * MIB

# What the child leaves where there is something to know of the reading.
NOTES = "notes.json"

# The files of a request, and the exit status of a child that could not even say what happened to it.
FILES = ("checkpoint", "evaluation", "calibration")
LOST = 75
