"""Commands that fetch a model at a size: pull it, or measure it with a script of one's own."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from rightrank.service.cli import connection
from rightrank.service.cli.arguments import (
    Budget,
    Confidence,
    Format,
    Json,
    MaxBytes,
    MaxMacs,
    MaxParams,
    MinAccuracy,
    Of,
    Precision,
    Reference,
    file_of,
    kind_of,
    size_of,
)
from rightrank.service.cli.connection import LOCAL, Url
from rightrank.service.cli.console import err, out, plainly, say_file, tell
from rightrank.service.client import script, tables
from rightrank.service.client.bars import Bars
from rightrank.service.client.http import Client, ClientError


def pull(
    reference: Reference,
    budget: Budget = None,
    of: Of = None,
    max_bytes: MaxBytes = None,
    max_params: MaxParams = None,
    max_macs: MaxMacs = None,
    min_accuracy: MinAccuracy = None,
    confidence: Confidence = None,
    max_error: Annotated[
        float | None, typer.Option(help="With --metric: the smallest of which at most this is reported.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="What --min-accuracy or --max-error is of, as the publisher reported it.")
    ] = None,
    precision: Precision = None,
    format: Format = None,
    ready: Annotated[
        bool, typer.Option("--ready", help="What is ready of that, at once; nothing is waited for.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="[default: MODEL.pt, or as the format is]")
    ] = None,
    url: Url = LOCAL,
    as_json: Json = False,
) -> None:
    """Fetch a model at a size, within one limit or several. Without any, the original."""
    size = size_of(
        budget=budget,
        of=of,
        max_bytes=max_bytes,
        max_params=max_params,
        max_macs=max_macs,
        min_accuracy=min_accuracy,
        max_error=max_error,
        confidence=confidence,
        metric=metric,
    )
    size |= kind_of(precision, format)
    if ready:
        size["ready"] = 1
    file = output or Path(file_of(reference, format))
    with plainly(as_json), connection.connect(url) as client, Bars(err) as bars:
        headers = client.pull(reference, size, file, bars)
    facts = {key.removeprefix("rightrank-"): value for key, value in headers.items() if "rightrank-" in key}
    say_file(file, headers["etag"], facts, of, as_json)


def measure(
    reference: Reference,
    own: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, metavar="SCRIPT", help="Is run as: python SCRIPT FILE")
    ],
    budget: Budget = None,
    of: Of = None,
    max_bytes: MaxBytes = None,
    max_params: MaxParams = None,
    max_macs: MaxMacs = None,
    precision: Precision = None,
    format: Format = None,
    metric: Annotated[
        str | None,
        typer.Option(help="What is measured, where the script does not say.  [default: the script's name]"),
    ] = None,
    higher_is_better: Annotated[
        bool | None,
        typer.Option("--higher-is-better/--lower-is-better", help="Where the script does not say.", show_default=False),
    ] = None,
    python: Annotated[str | None, typer.Option(help="The Python to run it with.  [default: that of the shell]")] = None,
    url: Url = LOCAL,
    as_json: Json = False,
) -> None:
    """Measure a model's file at a size with a script of your own, and report the number. Without a size, the original.

    The last line that the script prints is its number, or JSON: {"metric": "wer", "value": 0.083, "n": 2000,
    "low": 0.07, "high": 0.1, "higher_is_better": false}; all but the value may be left out.
    """
    size = size_of(budget=budget, of=of, max_bytes=max_bytes, max_params=max_params, max_macs=max_macs)
    size |= kind_of(precision, format)
    with (
        plainly(as_json),
        connection.connect(url) as client,
        tempfile.TemporaryDirectory(prefix="rightrank-") as folder,
    ):
        path = Path(folder, file_of(reference, format))
        with Bars(err) as bars:
            headers = client.pull(reference, size, path, bars)
        number = script.run(python or script.own_python(), own, path, lambda text: err.file.write(text))
        answer = report(client, headers, path, script.named(number, own, metric, higher_is_better))
    if as_json:
        out.print_json(data=answer)
    else:
        share = f"{float(headers['rightrank-budget']):.1%} of the original"
        out.print(f"{answer['model']}, {share}: {tables.reported([answer])}; it is reported")


def report(client: Client, headers: dict[str, str], path: Path, number: dict[str, Any]) -> dict[str, Any]:
    """Reports a number of the file at `path`, which came with these headers; by the model's id, since a name may have
    moved on meanwhile. Raises `ClientError`, which has the number: it may have taken hours."""
    said = {key: value for key, value in number.items() if key != "metric"}
    sha256 = headers["etag"].strip('"')
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise ClientError("The script changed the file that it was given; fetched anew, it is whole.")
        return client.report(headers["rightrank-model"], sha256, number["metric"], said)
    except ClientError as error:
        tell(f"{number['metric']} is {json.dumps(said)} of the file {sha256}; it is not reported:")
        raise error
