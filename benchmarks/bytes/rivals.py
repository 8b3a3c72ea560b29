"""What else makes a file small: int8 and int4 of the whole network, onnxruntime's int8, and neural network coding."""

from __future__ import annotations

import copy
import os
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.bytes import blob
from benchmarks.bytes.fold import folded
from benchmarks.bytes.study import Found, Study

ROOT = Path(__file__).parents[2]
ONNX, NNCODEC = Path("build/onnx/bin/python"), Path("build/nncodec/bin/python")
# From coarse to fine, a step half as large for every four less; together they reach from a few percent of float32's
# bytes to a quarter.
QP, QPS = "qp ", (-16, -18, -20, -22, -24, -28, -32, -36)


def quantised(study: Study, kind: str, *, width: str, feedback: bool) -> Found:
    """The whole network in eight or four bits, as its bytes have it."""
    coded = study.coded(width, feedback)
    state = coded.model.state_dict()
    data = blob.written(state, coded.weights, width, kind)
    again = blob.read(data, state, set(coded.weights), width, kind)
    if not all(torch.equal(again[name], tensor) for name, tensor in state.items()):
        raise RuntimeError(f"{width}, {kind}: the bytes are another network's than that which was measured")
    return Found(len(data), _count(coded.model), coded.answers)


def onnxruntime(study: Study, size: str) -> Found:
    """Static int8 in its own runtime; the bytes of the .onnx file."""
    _elsewhere(ONNX, "benchmarks.bytes.ort", study.exchanged)
    answers = load_file(study.exchanged / "answers.safetensors")["answers"]
    return Found((study.exchanged / "int8.onnx").stat().st_size, _count(folded(study.subject.module)), answers)


def nncodec(study: Study, size: str) -> Found:
    """Neural network coding with one quantisation parameter; the bytes of the bit stream. Batch norms stay, which keep
    their numbers nearly whole: folded into the weights, which all have one step, they had ResNet-56 change 8 % of its
    answers in 280 kB, where now it changes 5 % in 263 (400 images)."""
    _elsewhere(NNCODEC, "benchmarks.bytes.nnc", study.exchanged, size.removeprefix(QP))
    decoded = load_file(study.exchanged / "decoded.safetensors")
    model = copy.deepcopy(study.subject.module)
    model.load_state_dict({**model.state_dict(), **decoded})
    params = sum(each.numel() for each in decoded.values())
    return Found((study.exchanged / "coded.nnc").stat().st_size, params, study.answers(model))


def _count(model: torch.nn.Module) -> int:
    return sum(each.numel() for each in model.state_dict().values())


def _elsewhere(python: Path, module: str, folder: Path, *arguments: str) -> None:
    """Run a module of ours in another environment, which finds it here."""
    command = [str(ROOT / python), "-m", module, str(folder.resolve()), *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module} failed: {done.stderr[-2000:]}")
