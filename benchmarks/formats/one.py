"""One file of a master, made and run in a process of its own; what came of it is a line of JSON.

    python -m benchmarks.formats.one MASTER FORMAT PRECISION SHARE INPUTS OUTPUTS ROUNDS

INPUTS is a tensor, its rows the samples; what the file puts out for all of them goes to OUTPUTS. Needs no more than
rightrank's models and the format's runtime, so that one whose packages lie in another environment is run there.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from rightrank.models.emit import formats
from rightrank.models.emit.format import Output
from rightrank.models.emit.precision import encoding_in, written_in
from rightrank.models.errors import RightRankError
from rightrank.models.plan.planner import Planner

# One sample takes at least this long: as many calls in a row as that needs.
SAMPLE_S = 0.02


def main() -> None:
    master, format, precision, share, inputs, outputs, rounds = sys.argv[1:]
    torch.set_num_threads(1)
    try:
        found = run(Path(master), format, precision, float(share), Path(inputs), Path(outputs), int(rounds))
    except RightRankError as error:
        found = {"refused": error.detail}
    print(json.dumps(found))
    # Some runtimes do not come to an end by themselves.
    sys.stdout.flush()
    os._exit(0)


@torch.inference_mode()
def run(
    master: Path, format: str, precision: str, share: float, inputs: Path, outputs: Path, rounds: int
) -> dict[str, Any]:
    """Times are of the process's processors, memory is what its resident set grew by from before the file was opened
    to the most during a call of one sample."""
    exact = Output(format, formats.newest()[format])
    planner = Planner.open(master, exact)
    found = formats.offered(planner.template, planner.mixture is not None, exact)
    encoding = encoding_in(found, precision, planner.template, format)
    planner = planner.written_as(written_in(exact, encoding))
    params = int(share * planner.template.original.params)
    plan = planner.largest if share == 1 else planner.plan(max_params=max(params, planner.smallest.params))
    data: torch.Tensor = torch.load(inputs, weights_only=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"file{formats.format_of(plan.output).suffix}")
        with path.open("wb") as file:
            formats.write(master, plan, file)
        size = path.stat().st_size
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on, and not that of writing
        before = _kilobytes("VmRSS")
        model = formats.format_of(plan.output).load(path)
        one = data[:1]
        for _ in range(3):
            model(one)
        grown = _kilobytes("VmHWM") - before
        calls = max(1, round(SAMPLE_S / max(_seconds(model, one, 1), 1e-6)))
        times = [_seconds(model, one, calls) for _ in range(rounds)]
        torch.save(model(data), outputs)
    return {
        "bytes": size,
        "params": plan.params,
        "ms": 1000 * statistics.median(times),
        "memory": 1024 * grown,
    }


def _seconds(model: Any, sample: torch.Tensor, calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        model(sample)
    return (time.process_time() - start) / calls


def _kilobytes(what: str) -> int:
    """Of the process's memory, as the kernel says."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1])


if __name__ == "__main__":
    main()
