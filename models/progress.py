"""How work that takes a while tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

# Called as (phase, completed, total, unit); `total` is 0 where it is not known. It may raise to stop the work.
Progress: TypeAlias = Callable[[str, int, int, str], None]


def silent(phase: str, completed: int, total: int, unit: str) -> None:
    """A progress that nobody hears."""
