"""Conditional and range requests (RFC 9110, sections 13 and 14) for one strong entity tag."""

from __future__ import annotations

import re

from rightrank.service.problems import Problem

RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)
TAG = re.compile(r'(W/)?("[^"]*")')


def unmet(if_match: str | None, etag: str) -> bool:
    """Whether the client wants another version than this: strong comparison with any of a list, or `*`."""
    if if_match is None or if_match.strip() == "*":
        return False
    return etag not in (tag for weak, tag in TAG.findall(if_match) if not weak)


def matches(if_none_match: str | None, etag: str) -> bool:
    """Whether the client has this version already: weak comparison, any of a list, or `*`."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in (tag for _, tag in TAG.findall(if_none_match))


def span(range: str | None, if_range: str | None, etag: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last of what is asked for, or None for the whole.

    Several ranges, other units and what cannot be read are answered with the whole, as the RFC allows;
    so is a range of another version than this. Raises `Problem` where the range holds no byte.
    """
    if range is None or (if_range is not None and if_range.strip() != etag):
        return None
    match = RANGE.fullmatch(range)
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        start, stop = max(size - int(match[2]), 0), size
    else:
        start = int(match[1])
        if match[2] and int(match[2]) < start:
            return None
        stop = min(int(match[2]) + 1, size) if match[2] else size
    if start >= stop:
        raise Problem(
            "range-unsatisfiable",
            f"The file has {size} bytes.",
            headers={"Content-Range": f"bytes */{size}"},
            members={"size": size},
        )
    return start, stop
