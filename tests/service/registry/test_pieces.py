from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rightrank.service.registry.pieces import DIGEST, Damaged, digest, digests, verified

PIECES = [b"abc", b"def", b"g"]


def test_the_digest_of_all_pieces_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"".join(PIECES))
    whole, each = digests(PIECES)
    assert whole == digest(tmp_path / "f") == hashlib.sha256(b"abcdefg").hexdigest()
    assert len(each) == DIGEST * len(PIECES)


def test_a_piece_is_verified_by_its_own_digest() -> None:
    _, each = digests(PIECES)
    assert [verified(piece, number, each) for number, piece in enumerate(PIECES)] == PIECES
    for piece, number in ((b"abd", 0), (b"abc", 1), (b"ab", 0), (b"x", 3)):
        with pytest.raises(Damaged):
            verified(piece, number, each)


def test_of_no_pieces_there_is_the_digest_of_nothing() -> None:
    assert digests([]) == (hashlib.sha256().hexdigest(), b"")
