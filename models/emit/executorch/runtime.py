"""A .pte file in its own runtime, as ExecuTorch's Python package has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from executorch.runtime import Runtime
from torch import Tensor

from rightrank.models.emit.executorch.lower import MOST
from rightrank.models.errors import UnsupportedCheckpoint

if TYPE_CHECKING:
    from rightrank.models.emit.format import Network


class _Batches:
    """A method that takes any number of samples, always as many at once as its file has room for, the last repeated
    where there are fewer: one that has taken few may compute more of them wrong afterwards."""

    def __init__(self, path: Path) -> None:
        self._program = Runtime.get().load_program(path)
        self._method = self._program.load_method("forward")
        known = MOST in self._program.method_names
        self._most = int(self._program.load_method(MOST).execute([])[0]) if known else 0
        metadata = self._method.metadata
        sizes = [tuple(metadata.input_tensor_meta(n).sizes()) for n in range(metadata.num_inputs())]
        self._batched = [bool(self._most) and each[:1] == (self._most,) for each in sizes]

    def __call__(self, *inputs: Tensor) -> Any:
        if not any(self._batched):
            return _alone(self._run(inputs))
        rows = len(inputs[self._batched.index(True)])
        parts = []
        for start in range(0, rows, self._most):
            pairs = zip(inputs, self._batched, strict=True)
            parts.append(self._run([self._filled(each[start:]) if many else each for each, many in pairs]))
        return _alone([torch.cat(several)[:rows] for several in zip(*parts, strict=True)])

    def _filled(self, rows: Tensor) -> Tensor:
        some = rows[: self._most]
        return torch.cat([some, some[-1:].expand(self._most - len(some), *some.shape[1:])])

    def _run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        # What it gives back lies in memory that the next call takes.
        return [each.clone() for each in self._method.execute([each.contiguous() for each in inputs])]


def _alone(several: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    return several[0] if len(several) == 1 else tuple(several)


def load(path: Path) -> Network:
    """Raises UnsupportedCheckpoint where the runtime lacks a kernel for it."""
    try:
        return _Batches(path)
    except RuntimeError as error:
        raise UnsupportedCheckpoint(
            f"ExecuTorch's runtime does not open the file: {str(error).strip()[:300]}", "Ask for another format."
        ) from error
