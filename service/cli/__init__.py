"""The command `rightrank`: runs the service, publishes to it and fetches from it, and does without one what it can."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from rightrank.service.cli.console import out
from rightrank.service.cli.fetching import measure, pull
from rightrank.service.cli.keys import create, listed, revoke
from rightrank.service.cli.local import check, cut
from rightrank.service.cli.managing import alias, delete, models, retry, show, undelete
from rightrank.service.cli.publishing import push
from rightrank.service.cli.serving import api, fsck, serve, worker

# In the order in which they are shown.
COMMANDS: tuple[Callable[..., Any], ...] = (
    serve,
    worker,
    push,
    check,
    cut,
    pull,
    measure,
    models,
    show,
    retry,
    delete,
    undelete,
    alias,
    fsck,
)
OF_KEYS: Mapping[str, Callable[..., Any]] = {"create": create, "list": listed, "revoke": revoke}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One trained model in, any size out.",
)
for command in COMMANDS:
    app.command()(command)
app.command(hidden=True)(api)
of_keys = typer.Typer(no_args_is_help=True, help="Keys: create, list and revoke them.")
for name, command in OF_KEYS.items():
    of_keys.command(name)(command)
app.add_typer(of_keys, name="key")


def show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"rightrank {importlib.metadata.version('rightrank')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """One trained model in, any size out."""
