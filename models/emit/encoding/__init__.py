"""The encodings of numbers, by name."""

from __future__ import annotations

from collections.abc import Mapping

from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.encoding.half import Half
from rightrank.models.emit.encoding.int4 import Int4
from rightrank.models.emit.encoding.int8 import Int8
from rightrank.models.emit.encoding.levels import Mixed
from rightrank.models.emit.encoding.nested import Nested
from rightrank.models.emit.encoding.plain import Plain
from rightrank.models.emit.encoding.w8a8 import W8A8
from rightrank.models.errors import UnreadableMaster

ENCODINGS: Mapping[str, Encoding] = {
    encoding.name: encoding for encoding in (Plain(), Half(), Int8(), Nested(), Mixed(), W8A8(), Int4())
}


def encoding_of(name: str) -> Encoding:
    """The encoding called so. Raises UnreadableMaster for one that this version has not."""
    if name not in ENCODINGS:
        raise UnreadableMaster(
            f"The file was made with the encoding {name[:40]!r}, and this version has {', '.join(ENCODINGS)}.",
            "Run a version that has it.",
        )
    return ENCODINGS[name]
