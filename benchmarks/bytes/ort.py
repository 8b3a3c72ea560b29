"""onnxruntime's static int8 of a network, in an environment of its own (`make build/onnx`).

    build/onnx/bin/python -m benchmarks.bytes.ort FOLDER

FOLDER has `model.pt2`, a torch.export with any batch size, calibration `inputs` in calibration.safetensors and `inputs`
to answer in evaluation.safetensors. It leaves int8.onnx there, as QDQ, with a scale for each output channel of a weight
and for each activation as a whole, whose range is that of the values seen; and the outputs' largest places as `answers`
in answers.safetensors.

Weights and activations are both unsigned: with signed weights onnxruntime's products of a processor that has AVX2 and
not VNNI saturate, and of EfficientNet-Lite0's answers 55 % were left where these left 89 (64 calibration images).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bytes.ort", description="onnxruntime's static int8.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    quantise(folder)
    save_file({"answers": answers(folder)}, folder / "answers.safetensors")


def quantise(folder: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    whole, ready = folder / "float32.onnx", folder / "ready.onnx"
    torch.onnx.export(torch.export.load(folder / "model.pt2"), f=str(whole), external_data=False)
    quant_pre_process(str(whole), str(ready))
    inputs = load_file(folder / "calibration.safetensors")["inputs"]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The calibration inputs in batches."""

        def __init__(self) -> None:
            self.batches: Iterator[torch.Tensor] = iter(torch.split(inputs, BATCH))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {session(ready).get_inputs()[0].name: batch.numpy()}

    quantize_static(
        str(ready),
        str(folder / "int8.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QUInt8,
    )


def answers(folder: Path) -> torch.Tensor:
    running = session(folder / "int8.onnx")
    name = running.get_inputs()[0].name
    inputs = load_file(folder / "evaluation.safetensors")["inputs"]
    found = [running.run(None, {name: part.numpy()})[0].argmax(1) for part in torch.split(inputs, BATCH)]
    return torch.cat([torch.from_numpy(each) for each in found])


def session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
