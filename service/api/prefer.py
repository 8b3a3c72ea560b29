"""What a client would rather have (`Prefer`, RFC 7240)."""

from __future__ import annotations

import re
from collections.abc import Iterable

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
QUOTED = r'"(?:[^"\\]|\\.)*"'
PREFERENCE = re.compile(rf'(?:^|,)\s*({TOKEN})\s*(?:=\s*({TOKEN}|{QUOTED}))?(?:[^,"]|{QUOTED})*')


def preferences(lines: Iterable[str]) -> dict[str, str]:
    """Every preference by its name in lower case, with its value, "" where it has none. Of one that is said twice the
    first counts; parameters and what cannot be read are passed over."""
    found: dict[str, str] = {}
    for name, value in PREFERENCE.findall(",".join(lines)):
        found.setdefault(name.lower(), value.strip('"'))
    return found
