"""ONNX files that `kept.py` has kept, read and run by another runtime: what it makes of them, beside what ours made.

    python read.py onnxruntime|openvino FOLDER

Runs where nothing but that runtime and numpy is installed. Prints what was not read, with the runtime's words, what
came out otherwise, and a line that sums up; ends with an error where there is any of either.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Values = Mapping[str, Any]
# Of the largest number of an output: what is added in another order, or by an approximation of a function.
FLOATS = 2e-4
# A runtime that puts other kernels in the place of QuantizeLinear and what follows rounds other values up.
LEVELS = 0.1


def onnxruntime(path: Path) -> Callable[[Values], Values]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(names, dict(given)), strict=True))


def openvino(path: Path) -> Callable[[Values], Values]:
    import openvino

    # Where there is VNNI it would round what comes to linear layers of int8 weights, too.
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    model = openvino.Core().read_model(path)
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    names = [port.any_name for port in model.inputs]

    def run(given: Values) -> Values:
        # By place: compiled, a value may lose its name.
        found = compiled({port: given[name] for port, name in zip(compiled.inputs, names, strict=True)})
        return {
            name: found[port] for port, each in zip(compiled.outputs, model.outputs, strict=True) for name in each.names
        }

    return run


def apart(got: Any, wanted: Any) -> float:
    """The largest difference as a share of the largest number; infinite where type, shape or what is not finite
    differ."""
    if got.dtype != wanted.dtype or got.shape != wanted.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    if wanted.dtype.kind != "f":
        return 0.0 if np.array_equal(got, wanted) else float("inf")
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(np.where(finite, 0, b), np.where(np.isfinite(a), 0, a), equal_nan=True):
        return float("inf")
    with np.errstate(invalid="ignore"):
        far = np.abs(a - b)[finite].max(initial=0)
    return float(far / max(1.0, np.abs(b)[finite].max(initial=0)))


def main() -> int:
    opened, folder = {"onnxruntime": onnxruntime, "openvino": openvino}[sys.argv[1]], Path(sys.argv[2])
    count: collections.Counter[str] = collections.Counter()
    largest = 0.0
    for path in sorted(folder.rglob("*.onnx")):
        with np.load(path.with_suffix(".npz")) as kept:
            given = {name[6:]: kept[name] for name in kept if name.startswith("input:")}
            wanted = {name[7:]: kept[name] for name in kept if name.startswith("output:")}
        rounds = b"QuantizeLinear" in path.read_bytes().replace(b"DequantizeLinear", b"")
        try:
            found = opened(path)(given)
        except Exception as error:
            count["not read"] += 1
            print(f"{path.name}: not read: {' '.join(str(error).split())[:400]}", flush=True)
            continue
        far = max((apart(found[name], wanted[name]) for name in wanted), default=0.0)
        if far > (LEVELS if rounds else FLOATS):
            count["otherwise"] += 1
            print(f"{path.name}: otherwise, by {far:.2g}", flush=True)
            continue
        count["read"] += 1
        largest = max(largest, 0 if rounds else far)
    print(f"{dict(count)}; the largest difference, of what is not computed in levels, {largest:.1e}")
    return 1 if count["not read"] or count["otherwise"] or not count["read"] else 0


if __name__ == "__main__":
    sys.exit(main())
