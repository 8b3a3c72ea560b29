"""JSON from strangers."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from rightrank.models.errors import MalformedCheckpoint, UnsafeCheckpoint

_DIGITS = 20


def loads(data: bytes | bytearray, what: str) -> Any:
    """The value, without duplicate keys, NaN literals, or integers beyond 64 bits.

    Raises UnsafeCheckpoint for nesting that exhausts the parser, MalformedCheckpoint for the rest.
    """
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_int=_integer, parse_constant=_constant)
    except RecursionError:
        raise UnsafeCheckpoint(f"{what} is nested too deeply.") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise MalformedCheckpoint(f"{what} is not valid JSON.", "Save the model again.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _integer(text: str) -> int:
    value = int(text) if len(text) <= _DIGITS else 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError("an integer beyond 64 bits")
    return value


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
