"""The command `rightrank`: runs the service, publishes to it and fetches from it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal

from rightrank.models.card import checked
from rightrank.models.errors import DataError
from rightrank.service import logs
from rightrank.service.client import script, tables
from rightrank.service.client.bars import Bars
from rightrank.service.client.flags import SUFFIXES, spoken
from rightrank.service.client.http import Client, ClientError, Problem
from rightrank.service.run.processes import StartError, compute_as_a_worker, die_with_parent

if TYPE_CHECKING:
    from rightrank.models.checkpoint.readers import Readers
    from rightrank.service.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One trained model in, any size out.",
)
key_commands = typer.Typer(no_args_is_help=True, help="Keys: create, list and revoke them.")
app.add_typer(key_commands, name="key")
# In a pipe there is no edge at which a table would have to be cut off.
WIDE = 1000
out = Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

Url = Annotated[str, typer.Option(envvar="RIGHTRANK_URL", help="The server. Its key is read from RIGHTRANK_KEY.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Reference = Annotated[str, typer.Argument(metavar="MODEL", help="A name, name@version, or a model's id.")]
Data = Annotated[Path | None, typer.Option(help="The data folder.  [default: RIGHTRANK_DATA or ./data]")]
File = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help=".safetensors or .npz")]
Checkpoint = Annotated[Path, typer.Argument(exists=True, dir_okay=False, metavar="FILE", help="The trained model.")]
Architecture = Annotated[
    str | None, typer.Option(metavar="NAME|JSON", help="For weights alone: what they are the weights of.")
]
Effort = Annotated[str | None, typer.Option(help="For accuracy: cut, or with --calibration refit, tune or polish.")]
Chosen = Annotated[str | None, typer.Option(help="Of files for which none is named: float32, float16, int8, auto.")]
Metric = Annotated[str | None, typer.Option(help="What accuracy is.  [default: what the data look like]")]
Card = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="JSON that files carry: license, labels, preprocessing …"),
]
Options = Annotated[list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="May be repeated.")]
KeysFile = Annotated[Path, typer.Option(envvar="RIGHTRANK_KEYS_FILE", dir_okay=False)]
Budget = Annotated[float | None, typer.Option(help="A fraction of the original, 0.3.")]
Of = Annotated[str | None, typer.Option(help="What the budget is a fraction of: params or macs.")]
MaxBytes = Annotated[int | None, typer.Option(help="Of the file.")]
MaxParams = Annotated[int | None, typer.Option()]
MaxMacs = Annotated[int | None, typer.Option()]
MinAccuracy = Annotated[float | None, typer.Option(help="The smallest that reaches it.")]
Confidence = Annotated[
    float | None, typer.Option(help="With --min-accuracy: the smallest certified to reach it in truth, 0.95.")
]
Precision = Annotated[
    str | None, typer.Option(help="Of the file: float32, float16, int8, auto.  [default: the publisher's choice]")
]
Format = Annotated[
    str | None, typer.Option(help=f"Of the file: {', '.join(SUFFIXES)}.  [default: torchscript]", show_default=False)
]
GRACE_SECONDS = 5
LOCAL = "http://127.0.0.1:8000"


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


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 picks a free one.")] = None,
    host: Annotated[str | None, typer.Option(help="Other than loopback needs keys.")] = None,
    data: Data = None,
    workers: Annotated[int | None, typer.Option(min=0, help="0: run `rightrank worker` elsewhere.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Train and publish a small model to try.")] = False,
) -> None:
    """Run the service: Valkey, the workers and the API."""
    with plainly():
        from rightrank.service.run.supervise import serve

        settings = settings_of(port=port, host=host, data=data)
        say = begin_log(settings)
        name_unknown(say)
        serve(settings, settings.workers if workers is None else workers, demo, say)


@app.command()
def worker(
    queues: Annotated[str, typer.Option(help="Only these, separated by commas: waiting,ingest,background.")] = "",
) -> None:
    """Run one worker. It finds the service by RIGHTRANK_REDIS_URL and RIGHTRANK_STORE_URL."""
    die_with_parent()
    with plainly(), faults():
        from rightrank.service.jobs.worker import run

        settings = settings_of()
        name_unknown(begin_log(settings))
        run(settings, [queue.strip() for queue in queues.split(",") if queue.strip()] or None)


@app.command(hidden=True)
def api(descriptor: int) -> None:
    """Serve HTTP on a listening socket that `serve` passes on."""
    die_with_parent()
    with plainly(), faults():
        from rightrank.service.api.app import create_app
        from rightrank.service.api.wire import server_of

        settings = settings_of()
        begin_log(settings)
        application = create_app(settings)
    # Its own lines are written like all others.
    quiet: dict[str, Any] = {"log_level": "warning", "log_config": None}
    server = server_of(application, settings, **quiet, timeout_graceful_shutdown=GRACE_SECONDS)
    # `serve` has kept the signal back until there is something to take it.
    signal.signal(signal.SIGHUP, lambda *_: application.state.gate.reread())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    # By the socket rather than by its number, for which uvicorn assumes a unix socket and sets no TCP_NODELAY.
    server.run(sockets=[socket.socket(fileno=descriptor)])


@app.command()
def push(
    checkpoint: Checkpoint,
    name: Annotated[str | None, typer.Option(help="Publish as the next version of this name.")] = None,
    architecture: Architecture = None,
    evaluation: File = None,
    calibration: File = None,
    effort: Effort = None,
    precision: Chosen = None,
    metric: Metric = None,
    card: Card = None,
    option: Options = None,
    wait: Annotated[bool, typer.Option(help="Return once the model can be fetched.")] = True,
    url: Url = LOCAL,
    as_json: Json = False,
) -> None:
    """Publish a trained model."""
    options = options_given(option, effort=effort, precision=precision, metric=metric)
    said = None if card is None else read_card(card)
    told: list[str] = []

    def note(text: str) -> None:
        """Says what is to know of the model as soon as it is known, and once; to scripts in what they get."""
        if not as_json and text not in told:
            told.append(text)
            tell(f"Note: {text}")

    with plainly(as_json), connect(url) as client, Bars(err) as bars:
        answer = client.push(
            checkpoint,
            name=name,
            architecture=architecture,
            evaluation=evaluation,
            calibration=calibration,
            options=options,
            card=said,
            progress=bars,
        )
        done = client.wait(str(answer["operation"]), bars, note) if wait else {}
    notes = (done.get("result") or {}).get("notes") or []
    if as_json:
        out.print_json(data={**answer, **({"notes": notes} if notes else {})})
    else:
        out.print(f"{name or answer['id']} is {'ready' if wait else 'being prepared'}: model {answer['id']}")
        for each in notes:
            note(each)


@app.command()
def check(
    checkpoint: Checkpoint,
    architecture: Architecture = None,
    evaluation: File = None,
    calibration: File = None,
    effort: Effort = None,
    precision: Chosen = None,
    metric: Metric = None,
    card: Card = None,
    option: Options = None,
    as_json: Json = False,
) -> None:
    """Say whether a service would take a trained model, and what it would make of it. Nothing is sent.

    Needs rightrank[models]. Nothing is decomposed, so what is called smallest is what no size can be below.
    """
    options = options_given(option, effort=effort, precision=precision, metric=metric)
    said = None if card is None else read_card(card)
    with plainly(as_json, "models"), here() as readers, Bars(err) as bars:
        from rightrank.service.local.check import check
        from rightrank.service.local.taken import Given

        found = check(Given(checkpoint, evaluation, calibration, architecture, options, said, readers), bars)
    if as_json:
        out.print_json(data=found)
        return
    out.print(f"{checkpoint} can be published")
    out.print(tables.checked(found))
    for each in found["notes"]:
        tell(f"Note: {each}")


@app.command()
def cut(
    source: Annotated[
        Path, typer.Argument(exists=True, metavar="FILE|DIR", help="The trained model, or a master that was kept.")
    ],
    budget: Budget = None,
    of: Of = None,
    max_bytes: MaxBytes = None,
    max_params: MaxParams = None,
    max_macs: MaxMacs = None,
    min_accuracy: MinAccuracy = None,
    confidence: Confidence = None,
    max_error: Annotated[
        float | None, typer.Option(help="Of what is better the lower it is: the smallest that has at most this.")
    ] = None,
    precision: Precision = None,
    format: Format = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="[default: FILE.pt, or as the format is, here]")
    ] = None,
    architecture: Architecture = None,
    evaluation: File = None,
    calibration: File = None,
    effort: Effort = None,
    metric: Metric = None,
    criterion: Annotated[
        str | None, typer.Option(help="What a basis is worth.  [default: what the data allow]")
    ] = None,
    card: Card = None,
    option: Options = None,
    master: Annotated[
        Path | None, typer.Option(file_okay=False, help="Keep what was decomposed here: other sizes are quick then.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Cut a trained model to a size without a service, within one limit or several. Without any, the original.

    Needs rightrank[models]. The file is the one that a service would send.
    """
    size = size_of(
        budget=budget,
        of=of,
        max_bytes=max_bytes,
        max_params=max_params,
        max_macs=max_macs,
        min_accuracy=min_accuracy,
        max_error=max_error,
        confidence=confidence,
    )
    size |= kind_of(precision, format)
    options = options_given(option, effort=effort, metric=metric, criterion=criterion)
    said = None if card is None else read_card(card)
    if source.is_dir() and (options or said or architecture or evaluation or calibration or master):
        raise typer.BadParameter(f"{source} is a master, whose data and options were given when it was made")
    file = output or Path(file_of(source.resolve().stem, format))
    told: list[str] = []

    def note(text: str) -> None:
        if not as_json and text not in told:
            tell(f"Note: {text}")
        told.append(text)

    with plainly(as_json, "models"), here(not source.is_dir()) as readers, Bars(err) as bars:
        from rightrank.service.api.choose import Ask
        from rightrank.service.local.cut import cut
        from rightrank.service.local.taken import Given

        uploaded = Given(source, evaluation, calibration, architecture, options, said, readers)
        given = source if source.is_dir() else uploaded
        record, facts = cut(given, file, Ask(**size), master=master, progress=bars, noted=note)
    if as_json:
        notes = {"notes": list(dict.fromkeys(told))} if told else {}
        out.print_json(
            data={"file": str(file), "bytes": record.size, "etag": f'"{record.sha256}"', **tables.typed(facts), **notes}
        )
    else:
        out.print(f"{file}: {decimal(record.size)}, {tables.sentence(facts, of or 'params')}")


@app.command()
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
    with plainly(as_json), connect(url) as client, Bars(err) as bars:
        headers = client.pull(reference, size, file, bars)
    facts = {key.removeprefix("rightrank-"): value for key, value in headers.items() if "rightrank-" in key}
    if as_json:
        out.print_json(
            data={"file": str(file), "bytes": file.stat().st_size, "etag": headers["etag"], **tables.typed(facts)}
        )
    else:
        out.print(f"{file}: {decimal(file.stat().st_size)}, {tables.sentence(facts, of or 'params')}")


@app.command()
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
    with plainly(as_json), connect(url) as client, tempfile.TemporaryDirectory(prefix="rightrank-") as folder:
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


@app.command()
def models(url: Url = LOCAL, as_json: Json = False) -> None:
    """List the models."""
    with plainly(as_json), connect(url) as client:
        found = list(client.models())
    if as_json:
        out.print_json(data=found)
    else:
        out.print(tables.table_of(found))


@app.command()
def show(
    reference: Reference, precision: Precision = None, format: Format = None, url: Url = LOCAL, as_json: Json = False
) -> None:
    """Describe a model, and what was measured of its files in a precision and format."""
    with plainly(as_json), connect(url) as client:
        description, curve = client.show(reference), client.curve(reference, precision, format)
    if as_json:
        out.print_json(data={**description, "curve": curve})
    else:
        out.print(tables.summary_of(description))
        out.print(tables.table_of_sizes(curve))


@app.command()
def retry(
    operation: Annotated[str, typer.Argument(help="As the failure named it: ingest-… or cut-…")],
    wait: Annotated[bool, typer.Option(help="Return once it has ended.")] = True,
    url: Url = LOCAL,
    as_json: Json = False,
) -> None:
    """Try again what failed by no fault of the model."""
    with plainly(as_json), connect(url) as client, Bars(err) as bars:
        state = client.retry(operation)
        if wait:
            state = client.wait(operation, bars)
    if as_json:
        out.print_json(data=state)
    else:
        out.print(f"{operation} is {state['state']}")


@app.command()
def delete(
    reference: Reference,
    purge: Annotated[bool, typer.Option("--purge", help="Forget it at once and for good, with all its data.")] = False,
    url: Url = LOCAL,
    as_json: Json = False,
) -> None:
    """Delete a model and every size of it, under all of its names. For a day it can be had back."""
    with plainly(as_json), connect(url) as client:
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


@app.command()
def undelete(reference: Reference, url: Url = LOCAL, as_json: Json = False) -> None:
    """Have a deleted model back, by its id or by name@version."""
    with plainly(as_json), connect(url) as client:
        back = client.undelete(reference)
    if as_json:
        out.print_json(data=back)
    else:
        out.print(f"{back['id']} is back: {', '.join(back['names']) or 'without a name'}")


@app.command()
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
    with plainly(as_json), connect(url) as client:
        found = client.name(name) if alias is None else client.move(name, alias, version)
    if as_json:
        out.print_json(data=found)
        return
    for each in found["versions"]:
        called = [other["alias"] for other in found["aliases"] if other["version"] == each["version"]]
        gone = "" if each["exists"] else "  (deleted)"
        out.print(f"{name}@{each['version']}  {each['model']}  {', '.join(called)}{gone}")


@key_commands.command("create")
def create_key(
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


@app.command()
def fsck(
    quick: Annotated[bool, typer.Option("--quick", help="Compare sizes only, and read no large file.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove leftovers of more than a day; set aside what cannot be read.")
    ] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Check a store: the one of RIGHTRANK_STORE_URL, or in the data folder. Exit status 1: something is lost."""
    with plainly(as_json), faults():
        from rightrank.service.problems import Problem as Unavailable
        from rightrank.service.registry.fsck import LOST, Fsck
        from rightrank.service.registry.store import Store

        try:
            found = list(Fsck(Store(settings_of(data=data), patient=True), quick, repair).run())
        except Unavailable as error:
            raise StartError(str(error)) from error
    if as_json:
        out.print_json(data=[asdict(finding) for finding in found])
    else:
        for each in found:
            out.print(f"{each.kind}: {each.key}: {each.what} {'Done: ' if each.done else ''}{each.todo}")
        counts = Counter(finding.kind for finding in found)
        tell(", ".join(f"{count} {kind}" for kind, count in counts.items()) or "All is as it should be.")
    if any(finding.kind == LOST for finding in found):
        raise typer.Exit(1)


@key_commands.command("list")
def list_keys(keys_file: KeysFile = Path("keys"), as_json: Json = False) -> None:
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


@key_commands.command("revoke")
def revoke_key(
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


def kind_of(precision: str | None, format: str | None) -> dict[str, str]:
    """What kind of file is asked for."""
    return {name: value for name, value in (("precision", precision), ("format", format)) if value}


def file_of(reference: str, format: str | None) -> str:
    """What a file is called where nobody says."""
    return reference.replace("/", "_") + SUFFIXES.get(format or "torchscript", f".{format}")


def size_of(**limits: float | str | None) -> dict[str, Any]:
    """The query for these limits; without any, for the original."""
    return {key: value for key, value in limits.items() if value is not None} or {"budget": 1}


def tell(text: str) -> None:
    """What the service has to say, to its operator."""
    err.print(text)


def begin_log(settings: Settings) -> Callable[[str], None]:
    """Begins this process's log; what says to its operator in the same form what is no line of it."""
    logs.begin(settings.log)
    return tell if settings.log == "text" else logs.say


def connect(url: str) -> Client:
    return Client(url, os.environ.get("RIGHTRANK_KEY"))


def settings_of(**given: Any) -> Settings:
    """The settings from the environment, with what the command line says on top."""
    from pydantic import ValidationError

    from rightrank.service.settings import Settings

    try:
        return Settings(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        faults = [(".".join(map(str, fault["loc"])), fault["msg"]) for fault in error.errors()]
        words = "; ".join(f"{where}: {what}" if where else what for where, what in faults)
        raise StartError(words.removeprefix("Value error, ")) from error


def name_unknown(say: Callable[[str], None] = tell) -> None:
    """Says which of the environment's variables look like settings and are none. They are no error: Kubernetes makes
    some of the name of a service."""
    from rightrank.service.settings import unknown

    for name, nearest in unknown(os.environ):
        say(f"Warning: {name} is no setting" + (f"; {nearest} is" if nearest else ""))


def read_card(path: Path) -> dict[str, Any]:
    """The card in a file, looked at before anything is sent."""
    try:
        return checked(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} is not JSON", param_hint="--card") from error
    except DataError as error:
        raise typer.BadParameter(str(error), param_hint="--card") from error


def parse_option(text: str) -> tuple[str, Any]:
    """`criterion=c1c2` or `metric=top5`: the value as JSON where it is JSON, else as text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--option")
    with contextlib.suppress(ValueError):
        return key, json.loads(value)
    return key, value


def options_given(option: list[str] | None, **named: str | None) -> dict[str, Any]:
    """The options of an upload: those given as KEY=VALUE, and those that have flags of their own."""
    options = dict(parse_option(text) for text in option or [])
    return options | {key: value for key, value in named.items() if value is not None}


@contextlib.contextmanager
def here(reads: bool = True) -> Iterator[Readers]:
    """What a service would refuse is refused here in its words; what fails besides is told as it is. Gives what reads
    an upload: where one is to be read, a process for that starts at once, and imports torch while this one does."""
    from rightrank.models.checkpoint.readers import ReaderLost, Readers
    from rightrank.models.errors import RightRankError
    from rightrank.service import problems

    compute_as_a_worker()
    # What the service writes into its log stays in here, too.
    logging.getLogger("rightrank").addHandler(logging.NullHandler())
    try:
        with tempfile.TemporaryDirectory(prefix="rightrank-") as folder:
            readers = Readers(Path(folder))
            try:
                if reads:
                    readers.make_ready()
                yield readers
            finally:
                readers.close()
    except RightRankError as error:
        raise Problem(problems.describe(error)) from error
    except ReaderLost as error:
        raise ClientError(str(error)) from error


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
