"""Cutting a model, against what it would cost to do without a master. Ratios of medians from one run.

    python -m benchmarks.cutting [--quick]

* cut / copy       plan, truncate, emit and hash at 0.3 of the parameters with the master open, against
                   copying a file of that size in memory and hashing it
* afresh / cut     load the checkpoint, SVD of every layer, truncate, trace, save and hash, against the same cut
* decompose / svd  building the factors of every layer, against LAPACK's SVD of the same matrices
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from benchmarks import masters, programs
from rightrank.models.emit import formats
from rightrank.models.emit.precision import precisions, written_in
from rightrank.models.factor.decompose import decompose
from rightrank.models.factor.factors import in_call
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.layer import Layer
from rightrank.models.factor.metric import spatial_matrix
from rightrank.models.master.master import Master
from rightrank.models.plan.planner import Planner
from rightrank.models.program.graph import Node

BUDGET = 0.3
# Besides float32.
SHARES = {"float16": 0.3, "int8": 0.2, "auto": 0.06}
# A layer, the rank that it is cut to, and the calls of its factors.
Truncation: TypeAlias = tuple[Layer, int, Sequence[Node]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a small network and few repetitions")
    quick = parser.parse_args().quick
    name, arguments = ("resnet18", {"width": 16}) if quick else ("resnet18", {})
    print(json.dumps(measure(name, arguments, repeats=3 if quick else 15), indent=2))


def measure(name: str, arguments: dict[str, int], repeats: int) -> dict[str, float | int | str]:
    """All the ratios for one architecture, the rows taken in turn so that drift hits them alike."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "source"), Path(folder, "master")
        module = programs.prepare(name, arguments, source)
        checkpoint = Path(folder, "state.pt")
        torch.save(module.state_dict(), checkpoint)
        masters.make(source, out)
        planner = Planner.open(out, formats.latest())
        whole = Master.open(out)
        master, writer = whole.file, formats.writer_of(planner.template, planner.output)

        def one_cut() -> bytes:
            data = b"".join(writer.pieces(master, planner.plan(BUDGET).ranks, None))
            hashlib.sha256(data).digest()
            return data

        artifact = one_cut()
        layers = planner.template.decomposed
        weights = [module.state_dict()[layer.weight] for layer in layers]
        matrices = [matrix(w, form) for layer, w in zip(layers, weights, strict=True) for form in layer.suits]
        nodes = {node.name: node for node in planner.template.graph.nodes}
        truncations = [
            (layer, rank, layer.form.calls(layer, nodes[layer.calls[0]]))
            for layer, rank in zip(layers, planner.plan(BUDGET).ranks, strict=True)
            if rank
        ]
        cut_s, copy_s = alternate(one_cut, lambda: copy_and_hash(artifact), repeats)
        plan_s, _ = alternate(lambda: planner.plan(BUDGET), lambda: None, repeats)
        afresh_s, cut_again_s = alternate(
            lambda: afresh(name, arguments, checkpoint, truncations), one_cut, max(1, repeats // 5)
        )
        ours_s, svd_s = alternate(
            lambda: [decompose(*pair, None, FORMS) for pair in zip(layers, weights, strict=True)],
            lambda: [torch.linalg.svd(each, full_matrices=False) for each in matrices],
            max(1, repeats // 5),
        )
        return {
            "architecture": name,
            "parameters": planner.template.params,
            "artifact_bytes": len(artifact),
            "plans": len(planner),
            "cut / copy and hash": round(cut_s / copy_s, 2),
            "afresh / cut": round(afresh_s / cut_again_s, 1),
            "decompose / LAPACK SVD": round(ours_s / svd_s, 2),
            **{key: value for name, part in SHARES.items() for key, value in in_precision(whole, name, part, repeats)},
            "plan, ms": round(plan_s * 1000, 3),
            "cut, ms": round(cut_s * 1000, 1),
            "threads": torch.get_num_threads(),
        }


def in_precision(master: Master, name: str, share: float, repeats: int) -> Iterator[tuple[str, float]]:
    """The same of a file in a precision, of a share of the original's bytes."""
    planner = Planner.open(master.folder, written_in(formats.latest(), precisions(master.template, True)[name]))

    def one_cut() -> bytes:
        data = b"".join(formats.pieces(master, planner.plan(share)))
        hashlib.sha256(data).digest()
        return data

    artifact = one_cut()
    cut_s, copy_s = alternate(one_cut, lambda: copy_and_hash(artifact), repeats)
    plan_s, _ = alternate(lambda: planner.plan(share), lambda: None, repeats)
    yield f"cut / copy and hash, {name}", round(cut_s / copy_s, 2)
    yield f"plan, ms, {name}", round(plan_s * 1000, 3)


def copy_and_hash(data: bytes) -> None:
    """The least that handing out a file of this size can cost: one copy in memory, one SHA-256."""
    hashlib.sha256(bytearray(data)).digest()


def afresh(name: str, arguments: dict[str, int], checkpoint: Path, truncations: Sequence[Truncation]) -> None:
    """The same result without a master: what a script would do for each request."""
    module = programs.build(name, arguments)
    module.load_state_dict(torch.load(checkpoint, weights_only=True))
    for each in truncations:
        truncate(module, *each)
    example = torch.randn(2, *programs.input_shape(name, arguments))
    file = io.BytesIO()
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(module, example, check_trace=False), file)  # type: ignore[no-untyped-call]
    hashlib.sha256(file.getbuffer()).digest()


def matrix(weight: Tensor, form: str) -> Tensor:
    """The matrix (n, m) that is decomposed for a layer in a form."""
    return spatial_matrix(weight).T if form == "spatial" else weight.flatten(1)


def truncate(module: nn.Module, layer: Layer, rank: int, calls: Sequence[Node]) -> None:
    """Replace a convolution or linear layer by its two leading factors, in its form, from LAPACK's SVD."""
    parent, _, child = layer.name.rpartition(".")
    owner = module.get_submodule(parent)
    whole = owner.get_submodule(child)
    assert isinstance(whole, nn.Conv2d | nn.Linear)
    u, s, v = torch.linalg.svd(matrix(whole.weight.detach(), layer.form.name), False)
    bases = v[:rank], (u[:, :rank] * s[:rank]).T
    weights = [in_call(layer, side, rows) for side, rows in zip(layer.form.sides, bases, strict=True)]
    first, second = (as_module(call, weight) for call, weight in zip(calls, weights, strict=True))
    second.bias = whole.bias
    setattr(owner, child, nn.Sequential(first, second).eval())


def as_module(call: Node, weight: Tensor) -> nn.Conv2d | nn.Linear:
    """The module without bias that makes a factor's call."""
    outputs, inputs, *kernel = weight.shape
    module: nn.Conv2d | nn.Linear
    if kernel:
        height, width = kernel
        geometry: dict[str, Any] = dict(zip(("stride", "padding", "dilation", "groups"), call.args[3:], strict=False))
        module = nn.Conv2d(inputs, outputs, (height, width), **geometry, bias=False)
    else:
        module = nn.Linear(inputs, outputs, bias=False)
    module.weight.data = weight
    return module


def alternate(one: Callable[[], object], other: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of each, run in turn after one warm-up."""
    taken: tuple[list[float], list[float]] = ([], [])
    for round_ in range(repeats + 1):
        for function, times in zip((one, other), taken, strict=True):
            start = time.perf_counter()
            function()
            if round_:
                times.append(time.perf_counter() - start)
    return statistics.median(taken[0]), statistics.median(taken[1])


if __name__ == "__main__":
    main()
