"""An ONNX file, run by onnxruntime on the processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rightrank.models.errors import UnsupportedCheckpoint

if TYPE_CHECKING:
    from torch import Tensor


def session(path: Path) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """From tensors, one for each input, to the output's, or all of them. As many threads as torch has.

    Raises UnsupportedCheckpoint where onnxruntime cannot open the file. What it returns raises RuntimeError where it
    does not run.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UnsupportedCheckpoint(
            "This server has no onnxruntime, which ONNX files are measured with.", "Install rightrank[onnx]."
        ) from error
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4
    try:
        opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # Its errors have no base but Exception.
    except Exception as error:
        raise UnsupportedCheckpoint(
            f"onnxruntime does not open the file: {_reason(error)}", "Ask for another format, such as torchscript."
        ) from error
    names = [each.name for each in opened.get_inputs()]
    wanted = [each.name for each in opened.get_outputs()]

    def run(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        given = {name: each.detach().contiguous().numpy() for name, each in zip(names, inputs, strict=True)}
        try:
            found = opened.run(wanted, given)
        except Exception as error:
            raise RuntimeError(_reason(error)) from error
        results = tuple(torch.from_numpy(each) for each in found)
        return results[0] if len(results) == 1 else results

    return run


def _reason(error: Exception) -> str:
    return next((line.strip() for line in str(error).split("\n") if line.strip()), "")[:300]
