"""Masters to measure, of programs that lie in a folder as the reader would leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from rightrank.models.assemble.build import build
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples


def make(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    """The program in `source` as a master in `out`, with what the calibration inputs beside it say, if there are some.
    Options and answer are `build`'s."""
    calibration = source / "calibration.safetensors"
    program = Program.open(source)
    inputs = Samples.stored(program.graph, load_file(calibration)) if calibration.exists() else None
    return build(program, out, inputs, **options)
