"""A .pt2 file → a .pte file: what XNNPACK takes runs there, the rest by ExecuTorch's portable kernels.

Needs the package `executorch`, which brings pandas, coremltools and more: nothing else imports this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
from torch import Tensor, nn

from rightrank.models.emit.pt2.runtime import program_of
from rightrank.models.errors import PrecisionError, UnsupportedCheckpoint

# By this method a file says how many samples it takes at once.
MOST = "get_max_batch_size"


class _InHalf(nn.Module):
    """A program in half precision, which takes and gives single."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        for tensor in [*program.parameters(), *program.buffers()]:
            if bool((tensor.isfinite() & tensor.half().isinf()).any()):
                raise PrecisionError(
                    f"float16 goes up to 65,504, and a tensor of this model has {float(tensor.abs().max()):g}.",
                    "Ask for another precision.",
                )
        self.program = program.half()

    def forward(self, *inputs: Tensor) -> Any:
        made = self.program(*(each.half() if each.is_floating_point() else each for each in inputs))
        return tuple(map(_single, made)) if isinstance(made, (tuple, list)) else _single(made)


def _single(made: Tensor) -> Tensor:
    return made.float() if made.dtype == torch.float16 else made


def lower(
    data: bytes,
    batch: int | None,
    half: Sequence[Tensor] = (),
    free: Sequence[Mapping[int, tuple[str, int, int]]] = (),
) -> bytes:
    """The file of a program, of which at most `batch` samples are taken at once (None: as many as it was exported for).
    In half precision it is traced on inputs `half`, of which the sizes are `free` that have a name, the least and the
    most. Raises UnsupportedCheckpoint where ExecuTorch cannot hold it, PrecisionError where half precision cannot.
    """
    try:
        program = program_of(data)
        if half:
            dims: dict[str, Any] = {}
            for several in free:
                for name, low, high in several.values():
                    dims.setdefault(name, torch.export.Dim(name, min=low, max=high))
            shapes = tuple({dim: dims[name] for dim, (name, _, _) in several.items()} for several in free)
            module = _InHalf(program.module())
            program = torch.export.export(module, tuple(half), dynamic_shapes=(shapes,))
        methods = None if batch is None else {MOST: batch}
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], constant_methods=methods)
        return bytes(edge.to_executorch(ExecutorchBackendConfig()).buffer)
    except (MemoryError, PrecisionError):
        raise
    except Exception as error:
        # Whatever its passes raise for an operator that they do not know.
        reason = (str(error).strip().split("\n") or [""])[0][:300]
        raise UnsupportedCheckpoint(
            f"ExecuTorch does not take the program: {type(error).__name__}: {reason}", "Ask for another format."
        ) from error
