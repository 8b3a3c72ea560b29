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
    """What torch looks up of the machine, before its files are out of reach: which processor this is."""
    torch.backends.cpu.get_cpu_capability()


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
