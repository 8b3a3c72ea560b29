"""The ranges of a plan's own variant, where its file computes in eight bits: what was fitted reaches other values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rightrank.models.master import entries, ranges
from rightrank.models.master.master import Master
from rightrank.models.master.variant import variant
from rightrank.models.program.samples import Samples
from rightrank.models.progress import Progress
from rightrank.models.quantise.seen import Cut, seen

INPUTS = 256


def add(folder: Path, ranks: Sequence[int], improved: Path, progress: Progress) -> None:
    """Writes into the file of what a plan `ranks` of the master in `folder` has of its own the ranges that it has on
    calibration inputs kept there; nothing where none of its layers computes so. What is not finite on one of these has
    the master's ranges (see `master.ranges`)."""
    master = Master.open(folder)
    template, stored, changes = master.template, master.tensors(), load_file(improved)
    if template.integers is None:
        return
    with safe_open(improved, "numpy") as file:
        about = file.metadata()
    inputs = Samples.stored(template.graph, load_file(folder / entries.REFIT))[:INPUTS]
    made = variant(template, stored, ranks, changes)
    layers = {layer.weight: layer for layer in template.decomposed}
    cuts = [Cut(layers[weight], made.factors[weight]) for weight in template.integers.layers if weight in made.factors]
    progress("ranges", 0, 2 * len(inputs), "samples")
    found = seen(made.program(), inputs, cuts, tell=lambda done: progress("ranges", done, 2 * len(inputs), "samples"))
    for name in dict.fromkeys(template.integers.grids.values()):
        if name in found.values:
            changes[ranges.of_value(name)] = torch.tensor(found.values[name], dtype=torch.float32)
    changes |= {ranges.of_bases(weight): torch.from_numpy(most) for weight, most in found.bases.items()}
    save_file(changes, improved, about)
