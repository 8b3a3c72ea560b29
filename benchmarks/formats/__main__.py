"""What each format's files are in their own runtimes: bytes, agreement with TorchScript, time and memory on one core.

    python -m benchmarks.formats [--quick] [--networks NAME …] [--results FOLDER]

Networks have random weights (batch norms those of random inputs), which take as long to multiply as trained ones do,
and are cut by parameters; ranges of values are those of the samples. Every file is made and run in a process of its own
(`one.py`); that of ExecuTorch is the environment of `make test-executorch`, and its rows are left out where that is not
there. A row that is there is not measured again; the table goes to formats.csv and formats.md in docs/results, or with
--quick to a temporary folder.

* agreement   of 64 random samples how many have the same first answer as the TorchScript file of the same precision,
              or of float32 where TorchScript has not that
* difference  the largest between the two files' outputs
* ms          of one sample, processor time, the median of rounds
* memory      what opening the file and running one sample adds to the process at the most
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import masters, programs, results
from benchmarks.bar import bar
from benchmarks.tasks.networks import Decoder
from rightrank.models import checkpoint
from rightrank.models.assemble import integers
from rightrank.models.emit.formats import FORMATS
from rightrank.models.exporting import export
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent

SHARES = (1.0, 0.5, 0.25)
SAMPLES = 64
FIRST = "torchscript"
PRECISIONS: Mapping[str, Sequence[str]] = {
    FIRST: ("float32", "float16", "int8"),
    "onnx": ("float32", "float16", "int8", "int4", "w8a8"),
    "pt2": ("float32", "float16", "int8"),
    "executorch": ("float32", "float16"),
}
BUILD = Path(__file__).parents[2] / "build"
# The environment that a format's files are made and run in, where it is not this one.
ELSEWHERE = {"executorch": BUILD / "executorch" / "bin" / "python"}
TOKENS = 200


@dataclass(frozen=True)
class Row:
    """One file. Of a refused one only `refused` says something."""

    network: str
    precision: str
    share: float
    format: str
    params: int
    bytes: int
    agreement: float
    difference: float
    ms: float
    memory: int
    refused: str


def networks(quick: bool) -> Mapping[str, tuple[nn.Module, Tensor]]:
    """Each with its samples."""
    vit = {"num_classes": 10, "image_size": 64, "patch_size": 8, "dim": 192, "depth": 6, "heads": 4, "mlp_dim": 384}
    known = {
        "ResNet-18, 64×64": ("resnet18", {"num_classes": 10}, (3, 64, 64)),
        "MobileNetV2, 96×96": ("mobilenet_v2", {"num_classes": 10, "image_size": 96}, (3, 96, 96)),
        "VGG-15, 32×32": ("vgg15", {"num_classes": 10}, (3, 32, 32)),
        "ViT, 64×64": ("vit", vit, (3, 64, 64)),
    }
    if quick:
        known = {"ResNet-18, width 8": ("resnet18", {"width": 8, "image_size": 32, "num_classes": 10}, (3, 32, 32))}
    found: dict[str, tuple[nn.Module, Tensor]] = {}
    for name, (architecture, arguments, shape) in known.items():
        found[name] = settled(programs.build(architecture, dict(arguments)), shape), torch.randn(SAMPLES, *shape)
    if not quick:
        torch.manual_seed(0)
        found["decoder"] = Decoder(TOKENS, 64, 128).eval(), torch.randint(0, TOKENS, (SAMPLES, 24))
    return found


def settled(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """With the statistics of random inputs in its batch norms, without which most of its outputs would be the same."""
    norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    if norms:
        with torch.no_grad():
            module.train()(torch.randn(16, *shape))
    return module.eval()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.formats", description="Files in their own runtimes.")
    parser.add_argument("--quick", action="store_true", help="one small network, one size, formats that are here")
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="those whose names begin so")
    parser.add_argument("--rounds", type=int, help="other than 21, or 1 with --quick")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the table goes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shares = SHARES[1:2] if given.quick else SHARES
    rounds = given.rounds or (1 if given.quick else 21)
    here = {name: _python(name) for name in FORMATS}
    for name in (name for name, python in here.items() if python is None):
        print(f"{name}: {FORMATS[name][-1].available()} Its rows are left out.")
    with results.place(given.quick, given.results) as folder, tempfile.TemporaryDirectory() as temporary:
        table = results.Table(folder / "formats.csv", Row)
        chosen = {
            name: network
            for name, network in networks(given.quick).items()
            if not given.networks or name.startswith(tuple(given.networks))
        }
        files = [
            (precision, share, format)
            for precision in dict.fromkeys(name for several in PRECISIONS.values() for name in several)
            for share in shares
            for format in FORMATS
            if here[format] is not None and precision in PRECISIONS[format]
        ]
        with bar(len(chosen) * len(files), "files") as advance:
            for name, (module, samples) in chosen.items():
                master, inputs = Path(temporary, name, "master"), Path(temporary, name, "inputs.pt")
                first = Path(temporary, name, "first.pt")
                for precision, share, format in files:
                    if not table.has(network=name, precision=precision, share=share, format=format):
                        if not master.exists():
                            prepare(module, samples, master, inputs)
                        theirs = precision if precision in PRECISIONS[FIRST] else PRECISIONS[FIRST][0]
                        compared = first.with_suffix(f".{theirs}-{share}")
                        if format != FIRST and not compared.exists():
                            one(here[FIRST], master, FIRST, theirs, share, inputs, compared, 1)
                        row = (master, format, precision, share, inputs)
                        table.add(measured(here[format], name, *row, compared, rounds))
                    advance(f"{name}, {format}")
        page = folder / "formats.md"
        page.write_text(written(table.rows))
        print(page.read_text())


def _python(format: str) -> str | None:
    """What runs a format's files; None where nothing does."""
    if not FORMATS[format][-1].available():
        return sys.executable
    other = ELSEWHERE.get(format)
    return str(other) if other is not None and other.exists() else None


def prepare(module: nn.Module, samples: Tensor, master: Path, inputs: Path) -> None:
    inputs.parent.mkdir(parents=True)
    torch.save(samples, inputs)
    source = inputs.parent / "source"
    source.mkdir()
    checkpoint.read(export(module, samples[:1], source / "model.pt2")).save(source)
    masters.make(source, master, criterion="c1c2", mixed=False)
    # What rounding does to networks that nobody trained says nothing of others: all of their layers compute in int8.
    integers.save(master, Samples.of(samples), silent, math.inf)


def one(
    python: str | None,
    master: Path,
    format: str,
    precision: str,
    share: float,
    inputs: Path,
    outputs: Path,
    rounds: int,
) -> dict[str, object]:
    """What came of one file (see `one.py`). Raises RuntimeError where that fails otherwise than in words."""
    assert python is not None
    arguments = [str(each) for each in (master, format, precision, share, inputs, outputs, rounds)]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([root, *_paths()])}
    command = [python, "-W", "ignore", "-m", "benchmarks.formats.one", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise RuntimeError(f"{format}, {precision}, {share}: {done.stderr[-2000:]}")
    found: dict[str, object] = json.loads(lines[-1])
    return found


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def measured(
    python: str | None,
    network: str,
    master: Path,
    format: str,
    precision: str,
    share: float,
    inputs: Path,
    first: Path,
    rounds: int,
) -> Row:
    """The row of one file; the outputs of the TorchScript file are in `first`, or go there where it is that."""
    outputs = first if format == FIRST else first.with_name("outputs.pt")
    found = one(python, master, format, precision, share, inputs, outputs, rounds)
    if "refused" in found:
        return Row(network, precision, share, format, 0, 0, 0.0, 0.0, 0.0, 0, str(found["refused"]))
    mine, theirs = (torch.load(path, weights_only=True).double() for path in (outputs, first))
    same = (mine.flatten(0, -2).argmax(-1) == theirs.flatten(0, -2).argmax(-1)).double().mean()
    difference = float((mine - theirs).abs().max())
    numbers = (round(float(same), 4), float(f"{difference:.2g}"), round(float(str(found["ms"])), 3))
    sizes = (int(str(found["params"])), int(str(found["bytes"])))
    return Row(network, precision, share, format, *sizes, *numbers, int(str(found["memory"])), "")


def written(rows: Sequence[Row]) -> str:
    """The table, in words of Markdown."""
    lines = [
        f"{results.machine()}. Random weights; one sample on one core; memory beyond what the process has without it.",
        "",
        "| network | precision | parameters | format | bytes | agreement | difference | ms | memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        about = f"| {row.network} | {row.precision} | {row.share:g} | {row.format} |"
        if row.refused:
            lines.append(f"{about} {row.refused} | | | | |")
            continue
        lines.append(
            f"{about} {row.bytes:,} | {row.agreement:.1%} | {row.difference:.1e} | {row.ms:.2f} | "
            f"{row.memory / 1e6:.1f} MB |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
