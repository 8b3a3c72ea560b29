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
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks import programs
from rightrank.models.assemble import master
from rightrank.models.emit.torchscript.writer import Script, pieces
from rightrank.models.factor import form
from rightrank.models.factor import metric as factor
from rightrank.models.factor.layers import Layer
from rightrank.models.master.tensorfile import TensorFile
from rightrank.models.plan.planner import Planner

BUDGET = 0.3


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
        master.build(source, out)
        planner = Planner.open(out)
        tensors = TensorFile(out / "master.safetensors")
        script = Script(planner.template)

        def one_cut() -> bytes:
            data = b"".join(pieces(script, tensors, planner.plan(BUDGET).ranks))
            hashlib.sha256(data).digest()
            return data

        artifact = one_cut()
        layers = planner.template.decomposed
        weights = [module.state_dict()[layer.weight] for layer in layers]
        matrices = [w.flatten(1) for w in weights]
        matrices += [factor.spatial_matrix(w) for layer, w in zip(layers, weights, strict=True) if layer.columns]
        ranks = dict(zip(layers, planner.plan(BUDGET).ranks, strict=True))
        cut_s, copy_s = alternate(one_cut, lambda: copy_and_hash(artifact), repeats)
        plan_s, _ = alternate(lambda: planner.plan(BUDGET), lambda: None, repeats)
        afresh_s, cut_again_s = alternate(
            lambda: afresh(name, arguments, checkpoint, ranks), one_cut, max(1, repeats // 5)
        )
        ours_s, svd_s = alternate(
            lambda: [form.decompose(*pair, None, spatial=True) for pair in zip(layers, weights, strict=True)],
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
            "plan, ms": round(plan_s * 1000, 3),
            "cut, ms": round(cut_s * 1000, 1),
            "threads": torch.get_num_threads(),
        }


def copy_and_hash(data: bytes) -> None:
    """The least that handing out a file of this size can cost: one copy in memory, one SHA-256."""
    hashlib.sha256(bytearray(data)).digest()


def afresh(name: str, arguments: dict[str, int], checkpoint: Path, ranks: dict[Layer, int]) -> None:
    """The same result without a master: what a script would do for each request."""
    module = programs.build(name, arguments)
    module.load_state_dict(torch.load(checkpoint, weights_only=True))
    for layer, rank in ranks.items():
        if rank:
            truncate(module, layer, rank)
    example = torch.randn(2, *programs.input_shape(name, arguments))
    file = io.BytesIO()
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(module, example, check_trace=False), file)  # type: ignore[no-untyped-call]
    hashlib.sha256(file.getbuffer()).digest()


def truncate(module: nn.Module, layer: Layer, rank: int) -> None:
    """Replace a convolution or linear layer by its two leading factors, in its form, from LAPACK's SVD."""
    parent, _, child = layer.name.rpartition(".")
    owner = module.get_submodule(parent)
    whole = owner.get_submodule(child)
    assert isinstance(whole, nn.Conv2d | nn.Linear)
    weight = whole.weight.detach()
    u, s, v = torch.linalg.svd(factor.spatial_matrix(weight).T if layer.form == "spatial" else weight.flatten(1), False)
    first: nn.Conv2d | nn.Linear
    second: nn.Conv2d | nn.Linear
    if isinstance(whole, nn.Conv2d):
        inner, outer = layer.geometries((whole.stride, whole.padding, whole.dilation))  # type: ignore[arg-type]
        kernels = [shape[2:] for shape in layer.factor_shapes(rank)]
        first = nn.Conv2d(whole.in_channels, rank, kernels[0], *inner, bias=False)  # type: ignore[arg-type]
        second = nn.Conv2d(rank, whole.out_channels, kernels[1], *outer, bias=whole.bias is not None)  # type: ignore[arg-type]
    else:
        first = nn.Linear(weight.shape[1], rank, bias=False)
        second = nn.Linear(rank, weight.shape[0], bias=whole.bias is not None)
    first.weight.data, second.weight.data = factor.call_weights(layer, v[:rank], (u[:, :rank] * s[:rank]).T)
    if whole.bias is not None:
        second.bias = whole.bias
    setattr(owner, child, nn.Sequential(first, second).eval())


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
