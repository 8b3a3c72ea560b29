"""A card: what a publisher says of a model for those who run it: what it is, under which licence, what to feed it, and
what its outputs mean. It travels in the files.

Without any package, since whoever publishes checks it before anything is sent.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rightrank.models.errors import DataError

# What it is called in a file.
FILE = "card.json"
# The most characters that it has there, all of them ASCII: the names of ImageNet's thousand classes take some 30,000.
LIMIT = 64 * 1024
DEEPEST = 16
MEMBERS = ("description", "license", "labels", "preprocessing")
_OUTPUT = re.compile(r"0|[1-9][0-9]{0,3}")
_EXAMPLE = 'For example {"license": "MIT", "labels": ["cat", "dog"], "preprocessing": {"size": [224, 224]}}.'


def checked(given: Any) -> dict[str, Any]:
    """A card as it is kept: without members that are null, the labels of an only output as a list. Raises DataError."""
    if not isinstance(given, Mapping):
        raise DataError("The card is no JSON object.", _EXAMPLE)
    unknown = [str(name) for name in given if name not in MEMBERS]
    if unknown:
        raise DataError(
            f"The card has a member {unknown[0][:100]!r}.",
            f"Known are {', '.join(MEMBERS)}; what else a device has to know of its inputs goes into preprocessing.",
        )
    card = {name: value for name, value in given.items() if value is not None}
    for name in ("description", "license"):
        if name in card and not (isinstance(card[name], str) and card[name].strip()):
            raise DataError(f"The card's {name} is no text.", _EXAMPLE)
    if "labels" in card:
        card["labels"] = _labels(card["labels"])
    if "preprocessing" in card and not isinstance(card["preprocessing"], Mapping):
        raise DataError("The card's preprocessing is no JSON object.", _EXAMPLE)
    _check(card)
    if len(written(card)) > LIMIT:
        raise DataError(
            f"The card takes {len(written(card)):,} bytes, and {LIMIT:,} are the most.",
            "It is in every file: keep what a device needs, and an address for the rest.",
        )
    return card


def written(card: Mapping[str, Any]) -> str:
    """A card as files have it: JSON in ASCII, the same text for the same card; "" for one that says nothing."""
    return json.dumps(card, sort_keys=True, separators=(",", ":"), allow_nan=False) if card else ""


def labels_of(card: Mapping[str, Any]) -> dict[int, list[str]]:
    """The names of the classes by the output that they are of, counted from 0."""
    found = card.get("labels", {})
    return {0: found} if isinstance(found, list) else {int(output): names for output, names in found.items()}


def _labels(given: Any) -> list[str] | dict[str, list[str]]:
    if isinstance(given, Mapping):
        found = {str(output): _names(names) for output, names in given.items()}
        wrong = [output for output in found if not _OUTPUT.fullmatch(output)]
        if wrong or not found:
            raise DataError(
                f"The card's labels are of an output {''.join(wrong[:1])[:100]!r}.",
                'Outputs are counted from 0: {"0": ["cat", "dog"], "1": ["indoors", "outdoors"]}.',
            )
        return found["0"] if list(found) == ["0"] else found
    return _names(given)


def _names(given: Any) -> list[str]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise DataError("The card's labels are no list of names.", _EXAMPLE)
    for name in given:
        if not isinstance(name, str) or not name.strip() or "\n" in name:
            raise DataError(f"Of the card's labels {name!r:.100} is no name.", _EXAMPLE)
    return list(given)


def _check(card: Mapping[str, Any]) -> None:
    """Raises DataError for what is no JSON, or none that every reader takes and every terminal shows."""
    for text in _texts(card, DEEPEST):
        if any(unicodedata.category(mark) in ("Cc", "Cs") and mark not in "\n\t" for mark in text):
            raise DataError(f"The card has a text with control characters: {text!r:.100}.", "Leave them out.")
    try:
        written(card)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The card is no JSON: {str(error)[:100]}.", "Give texts, finite numbers, lists and dicts."
        ) from error


def _texts(value: Any, left: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        if not left:
            raise DataError(f"The card is nested more than {DEEPEST} deep.", "Write it flatter.")
        inside = [*value, *value.values()] if isinstance(value, Mapping) else value
        for each in inside:
            yield from _texts(each, left - 1)
