"""What the command prints: results to stdout, what is said besides to stderr, and failures as sentences."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.filesize import decimal

from rightrank.service.client import tables
from rightrank.service.client.flags import spoken
from rightrank.service.client.http import ClientError, Problem
from rightrank.service.run.processes import StartError

# In a pipe there is no edge at which a table would have to be cut off.
WIDE = 1000
out = Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def tell(text: str) -> None:
    """What there is to say besides a result."""
    err.print(text)


class Notes:
    """What is to know of a model, in `found`: told as soon as it is known, and once; to scripts in what they get."""

    def __init__(self, as_json: bool) -> None:
        self.found: list[str] = []
        self._quiet = as_json

    def __call__(self, text: str) -> None:
        if text not in self.found:
            self.found.append(text)
            if not self._quiet:
                tell(f"Note: {text}")


def say_file(
    file: Path, etag: str, facts: dict[str, str], of: str | None, as_json: bool, notes: Sequence[str] = ()
) -> None:
    """What was written to `file`, of which a service's headers say these facts."""
    size = file.stat().st_size
    if as_json:
        more = {"notes": list(notes)} if notes else {}
        out.print_json(data={"file": str(file), "bytes": size, "etag": etag, **tables.typed(facts), **more})
    else:
        out.print(f"{file}: {decimal(size)}, {tables.sentence(facts, of or 'params')}")


@contextlib.contextmanager
def plainly(as_json: bool = False, extra: str = "server") -> Iterator[None]:
    """Failures in a sentence, and in the exit status. `extra`: with which of the package's what is missing comes."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rightrank"):
            raise
        err.print(f"Error: this needs {error.name}, which a client does without: pip install 'rightrank[{extra}]'")
        raise typer.Exit(1) from error
    except (ClientError, StartError, OSError) as error:
        if as_json:
            document = error.document if isinstance(error, Problem) else {"detail": str(error)}
            print(json.dumps(document), file=err.file)
        else:
            err.print("Error:", style="bold red", end=" ")
            err.print(spoken(str(error)) if isinstance(error, Problem) else str(error))
        raise typer.Exit(1) from error


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """What the service finds wrong with its settings is why it cannot start."""
    try:
        yield
    except ValueError as error:
        raise StartError(str(error)) from error
