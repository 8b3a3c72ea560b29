"""Digests of a file's pieces: with them any part of it can be verified without the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

PIECE = 1 << 20
DIGEST = hashlib.sha256().digest_size


class Damaged(Exception):
    """Bytes are not those that were written."""


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(pieces: Iterable[bytes]) -> tuple[str, bytes]:
    """The SHA-256 of all pieces together, in hex, and those of each, 32 bytes a piece, one after the other."""
    whole, each = hashlib.sha256(), bytearray()
    for piece in pieces:
        whole.update(piece)
        each += hashlib.sha256(piece).digest()
    return whole.hexdigest(), bytes(each)


def verified(piece: bytes, number: int, each: bytes) -> bytes:
    """The piece `number`, if its SHA-256 is the one that `each` has for it. Raises `Damaged`."""
    if hashlib.sha256(piece).digest() != each[DIGEST * number : DIGEST * (number + 1)]:
        raise Damaged(f"piece {number}")
    return piece
