"""Commands for the keys file: create, list and revoke keys."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from rightrank.service.cli.arguments import Json
from rightrank.service.cli.console import faults, out, plainly, tell
from rightrank.service.client import tables

KeysFile = Annotated[Path, typer.Option(envvar="RIGHTRANK_KEYS_FILE", dir_okay=False)]


def create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[
        list[str],
        typer.Option(help="fetch, publish or admin; fetch:acme.* for some names only. May be repeated."),
    ],
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The last day (UTC) on which it is good.")
    ] = None,
    keys_file: KeysFile = Path("keys"),
    as_json: Json = False,
) -> None:
    """Create a key. It is printed once; the keys file keeps only its hash."""
    with plainly(as_json), faults():
        from rightrank.service.api import keys

        secret = keys.create(keys_file, name, scope, until.date() if until else None)
    last = until.date().isoformat() if until else None
    if as_json:
        out.print_json(data={"name": name, "scopes": scope, "until": last, "key": secret, "keys_file": str(keys_file)})
    else:
        out.print(secret)
        tell(
            f"This is shown once; {keys_file} has its hash. The service is told of the file by"
            f" RIGHTRANK_KEYS_FILE={keys_file}, and knows the key a second later. Send it as `Authorization: Bearer`,"
            " or set RIGHTRANK_KEY."
        )


def listed(keys_file: KeysFile = Path("keys"), as_json: Json = False) -> None:
    """List the keys of the keys file."""
    with plainly(as_json), faults():
        from rightrank.service.api import keys

        found = keys.read(keys_file)
    rows = [
        {
            "name": key.name,
            "scopes": sorted(key.scopes),
            "until": key.until.isoformat() if key.until else None,
            "expired": key.expired(),
            "digest": key.digest[: keys.SHOWN],
        }
        for key in found
    ]
    if as_json:
        out.print_json(data=rows)
    else:
        out.print(tables.table_of_keys(rows))


def revoke(
    which: Annotated[str, typer.Argument(metavar="NAME|DIGEST", help="Its name, or how its digest begins.")],
    keys_file: KeysFile = Path("keys"),
    as_json: Json = False,
) -> None:
    """Take a key out of the keys file; a service that runs does so within two seconds."""
    with plainly(as_json), faults():
        from rightrank.service.api import keys

        gone = [{"name": key.name, "digest": key.digest[: keys.SHOWN]} for key in keys.revoke(keys_file, which)]
    if as_json:
        out.print_json(data={"revoked": gone})
    else:
        for key in gone:
            out.print(f"The key {key['name']} ({key['digest']}) is revoked")
