"""A format: what turns a plan into the bytes of a file, says how many they are before, and runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.encoding import encoding_of
from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.encoding.plain import Plain
from rightrank.models.master.template import Template
from rightrank.models.master.tensorfile import TensorFile

if TYPE_CHECKING:
    from torch import Tensor

# A file that runs: from the program's inputs to its output, or all of them.
Network: TypeAlias = "Callable[..., Tensor | tuple[Tensor, ...]]"
Data: TypeAlias = bytes | memoryview
PLAIN = Plain.name


@dataclass(frozen=True)
class Output:
    """What kind of file a plan is written as: the format, the version of its writer, and how numbers are encoded.

    A model keeps the writer that it was published with, so that what it answers never changes.
    """

    format: str = "torchscript"
    writer: int = 1
    encoding: str = PLAIN

    @property
    def exact(self) -> bool:
        """Whether the network as uploaded can be such a file, bit for bit."""
        return encoding_of(self.encoding).exact

    @property
    def coded(self) -> bool:
        """Whether numbers are levels that were coded at ingest."""
        return encoding_of(self.encoding).coded

    @property
    def nested(self) -> bool:
        """Whether numbers are levels of eight bits that were rounded at ingest."""
        return encoding_of(self.encoding).nested

    @property
    def arithmetic(self) -> bool:
        """Whether files compute with levels."""
        return encoding_of(self.encoding).arithmetic

    @property
    def plain(self) -> Output:
        """The same with numbers as they are."""
        return replace(self, encoding=PLAIN)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# What every file was before there was anything to choose. Identities and records do not mention it.
FIRST = Output()


@dataclass(frozen=True)
class Text:
    """Of a text within a file its bits with every layer dense, and for each layer how many more it takes as each of the
    kinds that it may be: dense (0), cut, or what else the writer tells apart."""

    bits: int
    more: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Sizes:
    """Bytes of a format's files: `whole` with every layer dense, and in `tables` what each layer that can be cut adds
    to that at every rank, from 0 (dense: 0) to its break-even; a negative entry saves. What `texts` take more or less
    than with every layer dense comes on top: they end where a byte does, and not each layer's part of them. Of `whole`
    the `card` takes so many, in every file alike."""

    whole: int
    tables: Sequence[NDArray[np.int64]]
    texts: Sequence[Text] = ()
    card: int = 0


class Writer(Protocol):
    """A format for one template in one encoding: what all of its files have in common, found once."""

    def sizes(self) -> Sizes:
        """How large files are; exact, or at the most (see `Format.bounds`)."""

    def pieces(self, master: TensorFile, ranks: Sequence[int], changes: TensorFile | None) -> Iterator[Data]:
        """A file's bytes in order. Entries that are in `changes` are taken from there, at these ranks already."""


class Format(Protocol):
    """One version of a format's writer. The same master, plan and encoding give the same bytes."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def suffix(self) -> str: ...

    @property
    def media_type(self) -> str: ...

    @property
    def separate(self) -> bool:
        """Whether what makes and runs its files wants an environment of its own, where nothing else is done."""

    @property
    def bounds(self) -> bool:
        """Whether what is said of sizes is a bound: only making a file tells its size, which is at most that."""

    def available(self) -> str:
        """Why its files cannot be made or run in this environment, such as a package that is not installed, and what
        to do, without importing what is large; "" where they can."""

    def check(self, template: Template, encoding: Encoding) -> None:
        """Raises UnsupportedCheckpoint for a program that the format cannot hold, or not with such numbers."""

    def writer(self, template: Template, encoding: Encoding, original: bool = False) -> Writer:
        """What writes the files of a template; the `original`'s as it came, to the bit where the encoding keeps it."""

    def load(self, path: Path) -> Network:
        """The file at `path`, run by its own runtime. Raises UnsupportedCheckpoint where that cannot open it."""
