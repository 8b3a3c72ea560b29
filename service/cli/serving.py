"""Commands that run the service and look after its store: serve, worker, and fsck."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rightrank.service import logs
from rightrank.service.cli.arguments import Json
from rightrank.service.cli.console import faults, out, plainly, tell
from rightrank.service.run.processes import StartError, die_with_parent

if TYPE_CHECKING:
    from rightrank.service.settings import Settings

Data = Annotated[Path | None, typer.Option(help="The data folder.  [default: RIGHTRANK_DATA or ./data]")]
GRACE_SECONDS = 5


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


def begin_log(settings: Settings) -> Callable[[str], None]:
    """Begins this process's log; what says to its operator in the same form what is no line of it."""
    logs.begin(settings.log)
    return tell if settings.log == "text" else logs.say


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
