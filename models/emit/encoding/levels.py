"""Numbers as levels that were chosen and coded at ingest: ranks and steps, mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from rightrank.models.emit.encoding.encoding import coarsened
from rightrank.models.master.template import TensorSpec
from rightrank.models.master.tensorfile import TensorFile
from rightrank.models.program.graph import Constant, Node, Ref

SCALE = "scale"


@dataclass(frozen=True)
class Mixed:
    """Weights of float32 with two dimensions or more, and tables (see `Template`), as levels of eight bits, deflated,
    and a scale for each slice along the first axis, in half precision.

    To write a plan it has the master's `levels`, for each layer that can be cut the name of a grid, and the plan's
    `bytes`, to which a file is filled up whose levels are the plan's own.
    """

    levels: TensorFile | None = None
    grids: tuple[str, ...] = ()
    bytes: int = 0

    name: ClassVar[str] = "levels"
    exact: ClassVar[bool] = False
    coded: ClassVar[bool] = True
    nested: ClassVar[bool] = False
    arithmetic: ClassVar[bool] = False

    def parts(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        if not coarsened(spec.dtype, len(spec.shape)):
            return {"": spec}
        scales = (spec.shape[0], *(1 for _ in spec.shape[1:]))
        return {"": TensorSpec("int8", spec.shape), SCALE: TensorSpec("float16", scales)}

    def encode(self, array: NDArray[Any], dtype: str) -> Mapping[str, NDArray[Any]]:
        raise NotImplementedError("levels are chosen at ingest, or with a plan's improvement, not at a cut")

    def decode(self, value: str, spec: TensorSpec, parts: Mapping[str, Ref]) -> tuple[Node, ...]:
        if not coarsened(spec.dtype, len(spec.shape)):
            return ()
        levels = f"levels of {value}"
        single = Node(levels, "aten.to.dtype", (parts[""], Constant("dtype", "float32")), (), (levels,))
        return single, Node(value, "aten.mul.Tensor", (Ref(levels), parts[SCALE]), (), (value,))
