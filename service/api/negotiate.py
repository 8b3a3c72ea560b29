"""Which format a client would rather have (`Accept`, RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

RANGE = re.compile(r"\s*([\w!#$&^.+-]+/[\w!#$&^.+-]+)\s*((?:;[^,]*)?)")
WEIGHT = re.compile(r';\s*q\s*=\s*"?([01](?:\.\d{0,3})?)"?\s*(?:;|$)', re.IGNORECASE)


def preferred(lines: Iterable[str], offers: Mapping[str, str]) -> str | None:
    """Of `offers`, formats by their media type, the one whose type has the greatest weight in the header's lines, the
    first of several; None where none is named. What matches any type names none, nor does a weight of 0."""
    best, found = 0.0, None
    for item in ",".join(lines).split(","):
        match = RANGE.fullmatch(item)
        if match is None or (format := offers.get(match[1].lower())) is None:
            continue
        weight = WEIGHT.search(match[2])
        worth = min(float(weight[1]), 1.0) if weight else 1.0
        if worth > best:
            best, found = worth, format
    return found
