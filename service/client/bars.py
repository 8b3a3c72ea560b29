"""Progress bars on stderr, so that stdout stays for results; where stderr is no terminal, a line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Display

# Where no bar is drawn, a log gets a line as often.
SECONDS = 10.0


class Bars:
    """A context manager that is a Progress: one bar for each phase, in the order they come."""

    def __init__(self, console: Console) -> None:
        self._display = Display(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._console = console
        self._phase: str | None = None
        self._task = TaskID(-1)
        self._last = 0, 0, ""
        self._told = time.monotonic()

    def __call__(self, phase: str, completed: int, total: int, unit: str) -> None:
        if phase != self._phase:
            self._close()
            self._phase = phase
            self._task = self._display.add_task(phase, total=None, count="")
        self._last = completed, total, unit
        self._display.update(self._task, completed=completed, total=total or None, count=_count(completed, total, unit))
        if not self._console.is_terminal and time.monotonic() >= self._told + SECONDS:
            self._told = time.monotonic()
            self._console.print(f"{phase} {_count(completed, total, unit)}".strip())

    def _close(self) -> None:
        if self._phase is not None:
            _, total, unit = self._last
            self._display.update(self._task, completed=total or 1, total=total or 1, count=_count(total, total, unit))

    def __enter__(self) -> Bars:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close()
        self._display.stop()


def _count(completed: int, total: int, unit: str) -> str:
    if not total:
        return ""
    if unit == "bytes":
        return f"{decimal(completed)} of {decimal(total)}"
    return f"{completed:,} of {total:,} {unit}"
