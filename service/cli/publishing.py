"""The command that publishes a trained model."""

from __future__ import annotations

from typing import Annotated

import typer

from rightrank.service.cli import connection
from rightrank.service.cli.arguments import (
    Architecture,
    Card,
    Checkpoint,
    Chosen,
    Effort,
    File,
    Json,
    Metric,
    Options,
    card_given,
    options_given,
)
from rightrank.service.cli.connection import LOCAL, Url
from rightrank.service.cli.console import Notes, err, out, plainly
from rightrank.service.client.bars import Bars


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
    said, note = card_given(card), Notes(as_json)
    with plainly(as_json), connection.connect(url) as client, Bars(err) as bars:
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
