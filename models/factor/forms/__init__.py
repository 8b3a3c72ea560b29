"""The forms that a layer can take, by name; the first that fits is the one that criteria of others rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rightrank.models.factor.forms.channel import Channel
from rightrank.models.factor.forms.grouped import Grouped
from rightrank.models.factor.forms.product import Multiplied
from rightrank.models.factor.forms.spatial import Spatial
from rightrank.models.factor.forms.transposed import Transposed
from rightrank.models.factor.layer import Form, Layer

FORMS: Mapping[str, Form] = {form.name: form for form in (Channel(), Spatial(), Grouped(), Transposed(), Multiplied())}


def layer_from_json(data: Mapping[str, Any]) -> Layer:
    """The inverse of `Layer.to_json`. Raises KeyError for a form that there is not."""
    suits = data.get("suits")
    if suits is None:  # stored before there were other forms than these two
        positions, columns = data["positions"], data["columns"]
        suits = {"channel": (positions, positions)} if data["decomposed"] else {}
        suits |= {"spatial": (columns, positions)} if columns else {}
    return Layer(
        name=data["name"],
        weight=data["weight"],
        kind=data["kind"],
        shape=tuple(data["shape"]),
        calls=tuple(data["calls"]),
        positions=data["positions"],
        decomposed=data["decomposed"],
        form=FORMS[data["form"]],
        reason=data["reason"],
        suits={name: tuple(places) for name, places in suits.items()},
        groups=data.get("groups", 1),
    )
