"""What a running service promises, checked from outside with curl and torch alone.

    python -m benchmarks.verify [--budgets 1,0.7,0.5,0.3,0.2,0.1]

Starts `rightrank serve` over an empty folder, trains and publishes the demo, fetches each budget with
curl, and compares the headers with what only torch finds in the file: parameters, size, accuracy to the
last digit, and for budget=1 the original's outputs bit for bit. A budget bounds parameters and file alike. The header
counts a norm's scale, which a cut file has multiplied into the layer before it: of those, and of nothing else, the
file may have fewer. Then the same shares of the file alone, as `max_bytes`. Exits with 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks import processes
from rightrank.service.run.welcome import OPTIONS


@dataclass(frozen=True)
class Row:
    """One request: what the headers say and what the file shows."""

    asked: str
    reached: float
    params: int
    bytes: int
    accuracy: float
    cache: str
    broken: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description="Check a service's answers from outside.")
    parser.add_argument("--budgets", default="1,0.7,0.5,0.3,0.2,0.1")
    budgets = parser.parse_args().budgets.split(",")
    with tempfile.TemporaryDirectory() as name, processes.rightrank(Path(name, "data")) as (client, _):
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "rightrank.service.run.demo", str(folder)], check=True)
        answer = client.push(
            folder / "demo.pt2",
            name="demo",
            evaluation=folder / "evaluation.safetensors",
            calibration=folder / "calibration.safetensors",
            options=OPTIONS,
        )
        client.wait(str(answer["operation"]))
        whole = int(client.show("demo")["bytes"])
        rows = [check(client.url, f"budget={budget}", folder, whole) for budget in budgets]
        rows += [check(client.url, f"max_bytes={int(float(budget) * whole)}", folder, whole) for budget in budgets[1:]]
    print(f"{'asked':>16} {'params':>9} {'reached':>8} {'bytes':>9} {'of whole':>8} {'accuracy':>9}  broken")
    for row in rows:
        print(
            f"{row.asked:>16} {row.params:>9} {row.reached:>8.4f} {row.bytes:>9} {row.bytes / whole:>8.4f} "
            f"{row.accuracy:>9.4f}  {'; '.join(row.broken) or 'nothing'}"
        )
    sys.exit(any(row.broken for row in rows))


def check(url: str, asked: str, folder: Path, whole: int) -> Row:
    """Make one request with curl and hold the file against its headers; `whole`: bytes of the original's file."""
    path = folder / f"{asked}.pt"
    address = f"{url}/models/demo?{asked}"
    command = ["curl", "-fsSL", "--retry", "10", "--retry-connrefused", "-D", "-", "-o", str(path), address]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    headers = {
        key.strip().lower(): value.strip()
        for key, colon, value in (line.partition(":") for line in text.splitlines())
        if colon
    }
    model = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    params = sum(p.numel() for p in model.parameters())
    data = load_file(folder / "evaluation.safetensors")
    with torch.inference_mode():
        outputs = model(data["inputs"])
    accuracy = (outputs.argmax(1) == data["targets"]).sum().item() / len(outputs)
    original = torch.export.load(folder / "demo.pt2").module()
    norms = {name.rpartition(".")[0] for name, _ in original.named_buffers() if name.endswith("running_mean")}
    folded = 0 if asked == "budget=1" else sum(original.get_parameter(f"{name}.weight").numel() for name in norms)
    broken = tuple(broken_promises(headers, path, params, folded, accuracy, asked, whole))
    if asked == "budget=1" and not torch.equal(outputs, original_outputs(original, data["inputs"])):
        broken += ("the outputs are not the original's",)
    return Row(
        asked,
        float(headers["rightrank-budget"]),
        int(headers["rightrank-params"]),
        path.stat().st_size,
        accuracy,
        headers["rightrank-cache"],
        broken,
    )


def broken_promises(
    headers: Mapping[str, str], path: Path, params: int, folded: int, accuracy: float, asked: str, whole: int
) -> list[str]:
    """In words, each thing that the headers say and the file does not show. In the file `params` were counted; `folded`
    is how many of the original's the file may have multiplied in."""
    digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    kind, _, limit = asked.partition("=")
    reached = max(float(headers["rightrank-budget"]), size / whole) if kind == "budget" else size
    checks = {
        "more than asked": reached <= float(limit),
        "parameters differ from the header": 0 <= int(headers["rightrank-params"]) - params <= folded,
        "size differs from the header": size == int(headers["content-length"]),
        "digest differs from the ETag": headers["etag"] == f'"{digest}"',
        "accuracy differs from the header": accuracy == float(headers["rightrank-accuracy"]),
    }
    return [words for words, kept in checks.items() if not kept]


def original_outputs(original: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What the uploaded export itself gives."""
    with torch.inference_mode():
        result: torch.Tensor = original(inputs)
    return result


if __name__ == "__main__":
    main()
