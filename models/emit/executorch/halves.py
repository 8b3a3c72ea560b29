"""What of a program's numbers a .pte file has in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from rightrank.models.emit.encoding.half import Half
from rightrank.models.master.template import TensorSpec
from rightrank.models.program.graph import Node, Ref


class Halves:
    """As `Half`, but for the kernels of convolutions, which ExecuTorch stores in single precision: those of two
    dimensions alone."""

    name, exact, coded, nested, arithmetic = "half", False, False, False, False

    def parts(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        return Half().parts(spec) if len(spec.shape) == 2 else {"": spec}

    def encode(self, array: NDArray[Any], dtype: str) -> Mapping[str, NDArray[Any]]:
        return Half().encode(array, dtype) if array.ndim == 2 else {"": array}

    def decode(self, value: str, spec: TensorSpec, parts: Mapping[str, Ref]) -> tuple[Node, ...]:
        return Half().decode(value, spec, parts) if len(spec.shape) == 2 else ()
