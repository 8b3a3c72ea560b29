"""Commands for what a service has: list and describe models, delete them and have them back, try a failure again, and
move aliases."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from rightrank.service.cli import connection
from rightrank.service.cli.arguments import Format, Json, Precision, Reference
from rightrank.service.cli.connection import LOCAL, Url
from rightrank.service.cli.console import err, out, plainly
from rightrank.service.client import tables
from rightrank.service.client.bars import Bars


def models(url: Url = LOCAL, as_json: Json = False) -> None:
    """List the models."""
    with plainly(as_json), connection.connect(url) as client:
        found = list(client.models())
    if as_json:
        out.print_json(data=found)
    else:
        out.print(tables.table_of(found))


def show(
    reference: Reference, precision: Precision = None, format: Format = None, url: Url = LOCAL, as_json: Json = False
) -> None:
    """Describe a model, and what was measured of its files in a precision and format."""
    with plainly(as_json), connection.connect(url) as client:
        description, curve = client.show(reference), client.curve(reference, precision, format)
    if as_json:
        out.print_json(data={**description, "curve": curve})
    else:
        out.print(tables.summary_of(description))
        out.print(tables.table_of_sizes(curve))


def retry(
    operation: Annotated[str, typer.Argument(help="As the failure named it: ingest-… or cut-…")],
    wait: Annotated[bool, typer.Option(help="Return once it has ended.")] = True,
    url: Url = LOCAL,
    as_json: Json = False,
) -> None:
    """Try again what failed by no fault of the model."""
    with plainly(as_json), connection.connect(url) as client, Bars(err) as bars:
        state = client.retry(operation)
        if wait:
            state = client.wait(operation, bars)
    if as_json:
        out.print_json(data=state)
    else:
        out.print(f"{operation} is {state['state']}")


def delete(
    reference: Reference,
    purge: Annotated[bool, typer.Option("--purge", help="Forget it at once and for good, with all its data.")] = False,
    url: Url = LOCAL,
    as_json: Json = False,
) -> None:
    """Delete a model and every size of it, under all of its names. For a day it can be had back."""
    with plainly(as_json), connection.connect(url) as client:
        gone = client.delete(reference, purge)
    if as_json:
        out.print_json(data=gone)
        return
    names = f" ({', '.join(gone['names'])})" if gone["names"] else ""
    if gone["until"] is None:
        out.print(f"{gone['id']}{names} is forgotten")
    else:
        when = datetime.fromtimestamp(gone["until"]).strftime("%Y-%m-%d %H:%M")
        out.print(f"{gone['id']}{names} is deleted; until {when} it can be had back: rightrank undelete {gone['id']}")


def undelete(reference: Reference, url: Url = LOCAL, as_json: Json = False) -> None:
    """Have a deleted model back, by its id or by name@version."""
    with plainly(as_json), connection.connect(url) as client:
        back = client.undelete(reference)
    if as_json:
        out.print_json(data=back)
    else:
        out.print(f"{back['id']} is back: {', '.join(back['names']) or 'without a name'}")


def alias(
    name: Annotated[str, typer.Argument(help="A name, net.")],
    alias: Annotated[str | None, typer.Argument(help="stable: then net@stable is a reference.")] = None,
    version: Annotated[int | None, typer.Argument(help="The version that it is to stand for.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Have it stand for nothing.")] = False,
    url: Url = LOCAL,
    as_json: Json = False,
) -> None:
    """Show the versions and aliases of a name, or have an alias stand for a version."""
    if alias is not None and (version is None) != remove or (alias is None and (version is not None or remove)):
        raise typer.BadParameter("give an alias with a version, or with --remove, or a name alone")
    with plainly(as_json), connection.connect(url) as client:
        found = client.name(name) if alias is None else client.move(name, alias, version)
    if as_json:
        out.print_json(data=found)
        return
    for each in found["versions"]:
        called = [other["alias"] for other in found["aliases"] if other["version"] == each["version"]]
        gone = "" if each["exists"] else "  (deleted)"
        out.print(f"{name}@{each['version']}  {each['model']}  {', '.join(called)}{gone}")
