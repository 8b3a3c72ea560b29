"""What the child of `sandbox.prepare` does between taking its request and giving its answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from rightrank.models.checkpoint.data import read_data
from rightrank.models.checkpoint.limits import NOTES, Limits
from rightrank.models.checkpoint.reader import read


def warm_up() -> None:
    """What takes torch long, or is out of reach later, and is the same for every upload.

    It looks up which processor this is, and at the first call on shapes alone imports several hundred modules, which
    take as long as torch itself.
    """
    torch.backends.cpu.get_cpu_capability()
    torch.relu(torch.randn(1, device="meta"))


def do(request: Mapping[str, Any]) -> None:
    """Read the files that the request names and write what `sandbox.prepare` promises."""
    limits = Limits(**request["limits"])
    out = Path(request["out"])
    notes: list[str] = []
    program = read(Path(request["checkpoint"]), request["architecture"], limits, notes.append)
    program.save(out)
    if notes:
        (out / NOTES).write_text(json.dumps(notes))
    for name in ("evaluation", "calibration"):
        if request[name] is not None:
            data = read_data(Path(request[name]), program.graph, limits)
            names = [spec.name for spec in program.graph.inputs]
            safetensors.torch.save_file(data.tensors(names), out / f"{name}.safetensors")
