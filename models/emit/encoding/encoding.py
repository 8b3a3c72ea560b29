"""An encoding: how the numbers of a tensor are written in a file, and made again when it runs.

It says which tensors stand for one (its *parts*), writes them, and gives the calls that the program makes to have the
numbers back. What is true of a tensor holds for a factor of any rank, so sizes may be arrays, one for each rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from rightrank.models.master.template import TensorSpec
from rightrank.models.program.graph import Node, Ref


class Encoding(Protocol):
    """Numbers of a tensor as parts, by name; a part that has the tensor's own place is called ""."""

    @property
    def name(self) -> str: ...

    @property
    def exact(self) -> bool:
        """Whether the numbers that are made again are those that were, bit for bit."""

    @property
    def coded(self) -> bool:
        """Whether the part "" of what it coarsens is levels that were coded at ingest (see `levels`)."""

    @property
    def nested(self) -> bool:
        """Whether the parts of a factor are those of all its bases, cut (see `nested`)."""

    @property
    def arithmetic(self) -> bool:
        """Whether files compute with the levels, for which a format has to have operators."""

    def parts(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        """Of which types and sizes the parts of such a tensor are, in the order in which they lie in the file."""

    def encode(self, array: NDArray[Any], dtype: str) -> Mapping[str, NDArray[Any]]:
        """The parts of a tensor, by name. Its elements come as unsigned integers of the type's width: of most types
        only the bytes matter, and numpy lacks some."""

    def decode(self, value: str, spec: TensorSpec, parts: Mapping[str, Ref]) -> tuple[Node, ...]:
        """The calls that make `value` of its parts; none where the part "" is the tensor itself."""


def coarsened(dtype: str, dimensions: int) -> bool:
    """Whether encodings that keep less than float32 store such a tensor otherwise than as it is: the weights of layers,
    and not biases and what batch norms have, which are few and count for much."""
    return dtype == "float32" and dimensions > 1
