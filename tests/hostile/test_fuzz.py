"""Small random damage to an honest program: it is refused with an error of the tree, or it is read."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rightrank.models.checkpoint import exported
from rightrank.models.checkpoint.archive import Archive
from rightrank.models.checkpoint.limits import Limits
from rightrank.models.errors import CheckpointError
from rightrank.models.simplify.normalize import normalize
from tests.hostile import corpus

VALUES = st.sampled_from(
    [None, True, -1, 0, 7, 1 << 40, 0.5, "", "x", "s0", "p_0_weight", "input", [], [[]], {}, {"as_int": 3}]
    + [{"as_none": True}, {"as_tensor": {"name": "relu"}}, {"as_tensors": []}, {"as_bool": True}]
)


@functools.cache
def honest() -> corpus.Entries:
    return corpus.entries(corpus.honest())


@functools.cache
def places(entry: str) -> list[tuple[Any, ...]]:
    return list(paths(json.loads(honest()[entry])))


def paths(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a JSON document stands."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from paths(value, (*at, key))


def put(data: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


@settings(max_examples=300, deadline=None)
@given(draw=st.data(), entry=st.sampled_from([corpus.GRAPH, corpus.WEIGHTS, corpus.CONSTANTS]), value=VALUES)
def test_a_changed_value_anywhere_raises_nothing_outside_the_tree_of_errors(
    draw: st.DataObject, entry: str, value: Any
) -> None:
    place = draw.draw(st.sampled_from(places(entry)))
    changed = corpus.edited(honest(), entry, lambda data: put(data, place, value))
    try:
        found = exported.read(Archive(io.BytesIO(changed), 100), Limits(memory=1 << 28))
        normalize(found.graph, found.tensors, found.metas)
    except CheckpointError:
        return
