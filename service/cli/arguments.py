"""What several commands take: a size and a kind of file, a model to publish; and what is asked or sent of it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rightrank.models.card import checked
from rightrank.models.errors import DataError
from rightrank.service.client.flags import SUFFIXES

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Reference = Annotated[str, typer.Argument(metavar="MODEL", help="A name, name@version, or a model's id.")]
# Of a model to publish.
Checkpoint = Annotated[Path, typer.Argument(exists=True, dir_okay=False, metavar="FILE", help="The trained model.")]
File = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help=".safetensors or .npz")]
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
# Of a size.
Budget = Annotated[float | None, typer.Option(help="A fraction of the original, 0.3.")]
Of = Annotated[str | None, typer.Option(help="What the budget is a fraction of: params or macs.")]
MaxBytes = Annotated[int | None, typer.Option(help="Of the file.")]
MaxParams = Annotated[int | None, typer.Option()]
MaxMacs = Annotated[int | None, typer.Option()]
MinAccuracy = Annotated[float | None, typer.Option(help="The smallest that reaches it.")]
Confidence = Annotated[
    float | None, typer.Option(help="With --min-accuracy: the smallest certified to reach it in truth, 0.95.")
]
# Of a file.
Precision = Annotated[
    str | None,
    typer.Option(
        help="Of the file: float32, float16, int8, auto; in ONNX int4, w8a8.  [default: the publisher's choice]"
    ),
]
Format = Annotated[
    str | None, typer.Option(help=f"Of the file: {', '.join(SUFFIXES)}.  [default: torchscript]", show_default=False)
]


def size_of(**limits: float | str | None) -> dict[str, Any]:
    """The query for these limits; without any, for the original."""
    return {key: value for key, value in limits.items() if value is not None} or {"budget": 1}


def kind_of(precision: str | None, format: str | None) -> dict[str, str]:
    """What kind of file is asked for."""
    return {name: value for name, value in (("precision", precision), ("format", format)) if value}


def file_of(reference: str, format: str | None) -> str:
    """What a file is called where nobody says."""
    return reference.replace("/", "_") + SUFFIXES.get(format or "torchscript", f".{format}")


def options_given(option: list[str] | None, **named: str | None) -> dict[str, Any]:
    """The options of an upload: those given as KEY=VALUE, and those that have flags of their own."""
    options = dict(parse_option(text) for text in option or [])
    return options | {key: value for key, value in named.items() if value is not None}


def parse_option(text: str) -> tuple[str, Any]:
    """`criterion=c1c2` or `metric=top5`: the value as JSON where it is JSON, else as text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--option")
    with contextlib.suppress(ValueError):
        return key, json.loads(value)
    return key, value


def card_given(path: Path | None) -> dict[str, Any] | None:
    """The card in a file, if one is named, looked at before anything is sent."""
    if path is None:
        return None
    try:
        return checked(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} is not JSON", param_hint="--card") from error
    except DataError as error:
        raise typer.BadParameter(str(error), param_hint="--card") from error
