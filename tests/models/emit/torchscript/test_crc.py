from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from rightrank.models.emit.torchscript.crc import combined


@given(st.lists(st.binary(max_size=300), max_size=9))
def test_the_crc_of_a_whole_follows_from_its_pieces(pieces: list[bytes]) -> None:
    assert combined([zlib.crc32(piece) for piece in pieces], list(map(len, pieces))) == zlib.crc32(b"".join(pieces))


def test_of_large_pieces() -> None:
    pieces = [bytes(5_000_000), b"x" * 70_001, b""]
    assert combined([zlib.crc32(piece) for piece in pieces], list(map(len, pieces))) == zlib.crc32(b"".join(pieces))
