"""How many runs there were of each error at each kind of step, and how many broke a promise."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass
class Table:
    began: float = field(default_factory=time.monotonic)
    cells: dict[tuple[str, str, str], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def add(self, what: str, error: str, kind: str, violations: Sequence[str]) -> None:
        cell = self.cells[what, error, kind]
        cell[0] += 1
        cell[1] += bool(violations)

    def lines(self) -> Iterator[str]:
        yield f"{'what':<12} {'what goes wrong':<30} {'at':<26} {'runs':>6} {'violations':>10}"
        for (what, error, kind), (runs, violations) in sorted(self.cells.items()):
            yield f"{what:<12} {error:<30} {kind:<26} {runs:>6} {violations:>10}"
        runs, violations = (sum(cell[n] for cell in self.cells.values()) for n in range(2))
        yield f"{runs} runs in {time.monotonic() - self.began:.0f} s, {violations} with a violation"


TABLE = Table()
