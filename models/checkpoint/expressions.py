"""The symbolic sizes that torch.export writes.

torch's own loader hands these strings to sympy, which evaluates them as Python. Here nothing does: a size that depends
on the batch is the result of a call. All that is asked is whether a size is free (`symbol_of`). A string that could
reach anything if some other program did evaluate it has no honest author, so `is_plain` turns its file away.
"""

from __future__ import annotations

import re

# No quotes but those of a name, no brackets, no colon; an underscore only inside a name, a dot only inside a number.
_PLAIN = re.compile(r"(?:[A-Za-z0-9 ()+*/%,='<>!-]|(?<!_)_(?!_)|(?<=\d)\.(?=\d)){1,4096}\Z", re.ASCII)
_SYMBOL = re.compile(r"([a-z]{1,4}\d{1,12})\Z|Symbol\('(\w{1,64})'(?:, \w{1,64}=(?:True|False)){0,16}\)\Z", re.ASCII)


def is_plain(text: str) -> bool:
    """Whether `text` is short and of the characters of arithmetic alone: it names no attribute and no dunder."""
    return _PLAIN.match(text) is not None


def symbol_of(text: str) -> str:
    """The name that an expression is alone, and so any number: s0, or Symbol('s0', positive=True); "" for another."""
    found = _SYMBOL.match(text)
    return "" if found is None else found[1] or found[2]
