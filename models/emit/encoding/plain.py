"""Numbers as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from rightrank.models.master.template import TensorSpec
from rightrank.models.program.graph import Node, Ref


class Plain:
    """Every tensor in its own type, bit for bit."""

    name, exact, coded, nested, arithmetic = "plain", True, False, False, False

    def parts(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        return {"": spec}

    def encode(self, array: NDArray[Any], dtype: str) -> Mapping[str, NDArray[Any]]:
        return {"": array}

    def decode(self, value: str, spec: TensorSpec, parts: Mapping[str, Ref]) -> tuple[Node, ...]:
        return ()
