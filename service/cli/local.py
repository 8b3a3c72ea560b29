"""Commands that need no service: check an upload, and cut it here."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rightrank.service.cli.arguments import (
    Architecture,
    Budget,
    Card,
    Checkpoint,
    Chosen,
    Confidence,
    Effort,
    File,
    Format,
    Json,
    MaxBytes,
    MaxMacs,
    MaxParams,
    Metric,
    MinAccuracy,
    Of,
    Options,
    Precision,
    card_given,
    file_of,
    kind_of,
    options_given,
    size_of,
)
from rightrank.service.cli.console import Notes, err, out, plainly, say_file, tell
from rightrank.service.client import tables
from rightrank.service.client.bars import Bars
from rightrank.service.client.http import ClientError, Problem
from rightrank.service.run.processes import compute_as_a_worker

if TYPE_CHECKING:
    from rightrank.models.checkpoint.readers import Readers


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
    exact: Annotated[
        bool, typer.Option("--exact", help="Make it, for what is only known then; takes as long as an upload.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say whether a service would take a trained model, and what it would make of it. Nothing is sent.

    Needs rightrank[models]. What is not known before it is made is named, and --exact finds it out.
    """
    options = options_given(option, effort=effort, precision=precision, metric=metric)
    said = card_given(card)
    with plainly(as_json, "models"), here() as readers, Bars(err) as bars:
        from rightrank.service.local.check import check
        from rightrank.service.local.taken import Given

        found = check(Given(checkpoint, readers, evaluation, calibration, architecture, options, said), bars, exact)
    if as_json:
        out.print_json(data=found)
        return
    out.print(f"{checkpoint} can be published")
    out.print(tables.checked(found))
    for each in found["notes"]:
        tell(f"Note: {each}")


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
    said, note = card_given(card), Notes(as_json)
    if source.is_dir() and (options or said or architecture or evaluation or calibration or master):
        raise typer.BadParameter(f"{source} is a master, whose data and options were given when it was made")
    file = output or Path(file_of(source.resolve().stem, format))
    with plainly(as_json, "models"), here(not source.is_dir()) as readers, Bars(err) as bars:
        from rightrank.service.api.choose import Ask
        from rightrank.service.local.cut import cut
        from rightrank.service.local.taken import Given

        uploaded = Given(source, readers, evaluation, calibration, architecture, options, said)
        given = source if source.is_dir() else uploaded
        record, facts = cut(given, file, Ask(**size), master=master, progress=bars, noted=note)
    say_file(file, f'"{record.sha256}"', facts, of, as_json, note.found)


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
