"""What an architecture may be asked for: each argument's type and bounds.

The values come from a client's JSON, so nothing is converted: a float or a bool where an integer is
meant is refused, and every bound is small enough that a module at all its bounds stays within
`LARGEST` parameters or is refused before any memory is taken (see `registry.build`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rightrank.models.errors import MalformedCheckpoint

SIDE = 1024
CLASSES = 100_000


class Kind(Protocol):
    """An argument's default and its check; `check` returns the value to use or raises MalformedCheckpoint."""

    @property
    def default(self) -> object: ...

    def check(self, name: str, value: object) -> object: ...


@dataclass(frozen=True)
class Integer:
    default: int
    low: int
    high: int

    def check(self, name: str, value: object) -> int:
        if type(value) is not int or not self.low <= value <= self.high:
            raise MalformedCheckpoint(
                f"The architecture's {name} is {_shown(value)}.",
                f"It has to be an integer from {self.low} to {self.high}.",
            )
        return value


@dataclass(frozen=True)
class Number:
    default: float
    low: float
    high: float

    def check(self, name: str, value: object) -> float:
        # Written so that NaN, which JSON parsers let through, fails the comparison.
        if type(value) not in (int, float) or not self.low <= float(value) <= self.high:  # type: ignore[arg-type]
            raise MalformedCheckpoint(
                f"The architecture's {name} is {_shown(value)}.",
                f"It has to be a number from {self.low} to {self.high}.",
            )
        return float(value)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Integers:
    """A list of up to `most` integers."""

    default: tuple[int, ...]
    low: int
    high: int
    most: int

    def check(self, name: str, value: object) -> tuple[int, ...]:
        if not isinstance(value, list | tuple) or len(value) > self.most:
            raise MalformedCheckpoint(
                f"The architecture's {name} is {_shown(value)}.",
                f"It has to be a list of at most {self.most} integers from {self.low} to {self.high}.",
            )
        item = Integer(self.low, self.low, self.high)
        return tuple(item.check(f"{name}[{i}]", v) for i, v in enumerate(value))


def classes(default: int = 1000) -> Integer:
    return Integer(default, 1, CLASSES)


def channels(default: int = 3) -> Integer:
    return Integer(default, 1, 1024)


def side(default: int, low: int = 1) -> Integer:
    """The height and width of the square input image, in pixels."""
    return Integer(default, low, SIDE)


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, int | float | str | bool | None) else type(value).__name__
    return text if len(text) <= 40 else text[:40] + "…"
