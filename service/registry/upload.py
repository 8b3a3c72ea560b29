"""What an upload may say besides its files: the architecture of weights alone, the card, and the options."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from rightrank.models import card
from rightrank.models.emit.format import FIRST
from rightrank.models.emit.formats import FORMATS
from rightrank.models.emit.precision import CHOICES
from rightrank.models.errors import DataError
from rightrank.models.measure.metrics import METRICS
from rightrank.models.plan.criteria import CRITERIA
from rightrank.service.problems import Problem

# What is done for accuracy besides cutting: nothing; work for each size when it is first asked for; one
# training, at ingest, for all sizes; that, and then a training of each size.
EFFORTS = ("cut", "refit", "tune", "polish")
NUMBERS = (("tune_steps", 1_000_000), ("tune_seconds", 7 * 24 * 3600))
# How many budgets may be measured ahead of any request.
AHEAD = 32


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Raises `Problem` where one of the files, by role, has no byte."""
    for role, size in sizes.items():
        if size == 0:
            raise Problem("invalid-request", f"The file `{role}` is empty.")


def architecture_of(text: str) -> dict[str, Any] | None:
    """The architecture in its one spelling, `{"name": …, "arguments": {…}}`.

    A bare name will do, and so will arguments beside the name.
    """
    text = text.strip()
    if not text:
        return None
    if not text.startswith("{"):
        return {"name": text, "arguments": {}}
    given = read_json("architecture", text)
    name = given.pop("name", None)
    arguments = given.pop("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise Problem(
            "invalid-request",
            "The architecture is not a name with arguments.",
            'For example {"name": "resnet18", "arguments": {"num_classes": 10}}.',
        )
    return {"name": name, "arguments": arguments | given}


def card_of(text: str) -> dict[str, Any]:
    """What the publisher says of the model; nothing where that is nothing. Raises `Problem`."""
    text = text.strip()
    try:
        return card.checked(read_json("card", text)) if text else {}
    except DataError as error:
        raise Problem("invalid-request", error.detail, error.hint) from error


def options_of(text: str, files: Collection[str]) -> dict[str, Any]:
    """The options of an upload that has these files, each in its one spelling. Raises `Problem`."""
    text = text.strip()
    options = read_json("options", text) if text else {}
    words = {"criterion": tuple(CRITERIA), "metric": tuple(METRICS), "effort": EFFORTS, "precision": CHOICES}
    numbers = dict(NUMBERS)
    for option, value in options.items():
        if option in words:
            if value not in words[option]:
                raise Problem(
                    "invalid-request", f"`{option}` {value!r} is not known.", f"Known: {', '.join(words[option])}."
                )
        elif option in numbers:
            if type(value) is not int or not 1 <= value <= numbers[option]:
                raise Problem("invalid-request", f"`{option}` is not a whole number from 1 to {numbers[option]}.")
        elif option == "budgets":
            options[option] = budgets_of(value)
        elif option == "formats":
            options[option] = formats_of(value)
        else:
            known = ", ".join([*words, *numbers, "budgets", "formats"])
            raise Problem("invalid-request", f"There is no option {option[:100]!r}.", f"Known: {known}.")
    effort = options.get("effort", "cut")
    if effort != "cut" and "calibration" not in files:
        raise Problem(
            "invalid-request",
            f"`effort={effort}` needs calibration inputs.",
            "curl -F calibration=@inputs.safetensors …",
        )
    if numbers.keys() & options.keys() and effort not in ("tune", "polish"):
        named = ", ".join(f"`{number}`" for number in numbers)
        raise Problem("invalid-request", f"{named} go with `effort=tune` or `effort=polish`.")
    for option in ("budgets", "formats"):
        if option in options and "evaluation" not in files:
            raise Problem(
                "invalid-request", f"`{option}` to measure need evaluation data.", "curl -F evaluation=@test.npz …"
            )
    return options


def formats_of(value: Any) -> list[str]:
    known = [name for name in FORMATS if name != FIRST.format]
    if not isinstance(value, list) or not all(name in known for name in value) or len(set(value)) != len(value):
        raise Problem(
            "invalid-request",
            f"`formats` is no list of formats: {str(value)[:100]}.",
            f"Those that can be made ahead besides TorchScript: {', '.join(known)}.",
        )
    return value


def budgets_of(value: Any) -> list[float]:
    """The budgets to measure ahead, in their one spelling: each once, the largest first."""
    listed = isinstance(value, list) and len(value) <= AHEAD
    if not listed or not all(type(each) in (int, float) and 0 < each <= 1 for each in value):
        raise Problem(
            "invalid-request",
            f"`budgets` is not a list of at most {AHEAD} numbers above 0, up to 1.",
            "For example [0.5, 0.3].",
        )
    return sorted({float(each) for each in value}, reverse=True)


def read_json(field: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Problem("invalid-request", f"The field `{field}` is not JSON.") from error
    if not isinstance(value, dict):
        raise Problem("invalid-request", f"The field `{field}` is not a JSON object.")
    return value
