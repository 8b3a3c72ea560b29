from __future__ import annotations

import pytest
import typer.main

from rightrank.models.checkpoint.limits import FILES
from rightrank.models.emit.formats import FORMATS
from rightrank.service import cli
from rightrank.service.api import ask, uploads
from rightrank.service.client import flags


@pytest.mark.parametrize(
    ("said", "spoken"),
    [
        ("Name it in `architecture`.", "Name it in --architecture."),
        ("It needs curl -F calibration=@inputs.safetensors …", "It needs --calibration inputs.safetensors"),
        ("Choose `effort=tune`, or another `metric`.", "Choose --effort tune, or another --option metric=…."),
        ("for `metric=mse`", "for --option metric=mse"),
        ("within `max_params=5`", "within --max-params 5"),
        ("with `ready=1`", "with --ready"),
        ("Give them as `targets`.", "Give them as `targets`."),
        ("GET /models lists them.", "rightrank models lists them."),
        ("See GET /names/net.", "See rightrank alias net."),
        ("See GET /models/net@2.", "See rightrank show net@2."),
    ],
)
def test_the_command_names_its_flags_where_the_api_names_fields(said: str, spoken: str) -> None:
    assert flags.spoken(said) == spoken


def test_every_flag_is_one_of_the_commands_and_every_field_and_option_of_the_api_has_one() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    there = {option for name in ("push", "pull") for parameter in commands[name].params for option in parameter.opts}
    assert {f"--{flag.replace('_', '-')}" for flag in flags.FLAGS} | {"--option"} <= there
    assert {*uploads.FIELDS, *FILES} - {"checkpoint", "options"} <= flags.FLAGS
    # `metric` is an option of an upload; of a size no problem names it so.
    assert set(ask.KNOWN) <= flags.FLAGS | {"metric"}
    assert flags.SUFFIXES.items() >= {name: versions[-1].suffix for name, versions in FORMATS.items()}.items()
    assert {"budgets", "criterion", "formats", "metric", *dict(uploads.NUMBERS)} == flags.OPTIONS
