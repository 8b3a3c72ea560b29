"""A progress bar on stderr, for benchmarks that take minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[str], None]


@contextmanager
def bar(total: int, unit: str) -> Iterator[Advance]:
    """A bar of `total` steps, called `unit`. What is yielded takes it one step further and says what of."""
    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)

        def advance(title: str) -> None:
            progress.update(task, advance=1, description=title)

        yield advance
