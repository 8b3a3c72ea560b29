"""Masters to measure, of programs that lie in a folder as the reader would leave them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from rightrank.models.assemble.build import build
from rightrank.models.improve import polish
from rightrank.models.master import entries
from rightrank.models.program.program import Program
from rightrank.models.program.samples import INPUTS, Samples


def make(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    """The program in `source` as a master in `out`, with what the calibration inputs beside it say, if there are some.
    Options and answer are `build`'s."""
    calibration = source / "calibration.safetensors"
    program = Program.open(source)
    inputs = Samples.stored(program.graph, load_file(calibration)) if calibration.exists() else None
    return build(program, out, inputs, **options)


def to_polish(tuned: Path, out: Path, inputs: Tensor) -> None:
    """The tuned master again in `out`, where it keeps as many of the inputs as polishing wants."""
    shutil.copytree(tuned, out, dirs_exist_ok=True)
    kept = load_file(out / entries.REFIT)
    kept |= {INPUTS: inputs[: polish.INPUTS].contiguous()}
    save_file(kept, out / entries.REFIT)
