"""Graphs that a program wraps in a call of their own, as their calls where that call stood.

torch writes what runs under `torch.no_grad`, or under `torch.autocast`, as a call that takes a graph. Whether gradients
are kept changes no value, nor does an autocast that is switched off; every other such call stays, and is refused by
name. It is the untrusted JSON that is rewritten, before anything of it is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rightrank.models.checkpoint.fields import choice, mapping, only, sequence, text, truth
from rightrank.models.errors import MalformedCheckpoint, UnsafeCheckpoint, UnsupportedCheckpoint

_HINT = "Save the model again with torch.export.save."
_GRADIENTS = "torch.ops.higher_order.wrap_with_set_grad_enabled"
_AUTOCAST = "torch.ops.higher_order.wrap_with_autocast"
# Where in a call's arguments its graph stands, and where whether it is switched on.
_PLACES = {_GRADIENTS: (1, 0), _AUTOCAST: (4, 2)}
_DEPTH = 16
# What torch describes of a graph's values.
_TABLES = ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "custom_obj_values")
# Where a value's name stands.
_NAMING = ("name", "as_name")
# The calls that give a value another name.
_SAME = {"as_tensor": "torch.ops.aten.alias.default", "as_sym_int": "_operator.pos", "as_sym_float": "_operator.pos"}


def flat(data: Any, depth: int = 0) -> dict[str, Any]:
    """The graph with the calls of its regions among its own, and their values among its values.

    Raises MalformedCheckpoint for a region that does not fit its call, UnsupportedCheckpoint for an autocast that is
    switched on, UnsafeCheckpoint for regions in regions without end.
    """
    graph: dict[str, Any] = mapping(data, "the graph")
    nodes = sequence(graph.get("nodes"), "the list of calls")
    if not any(_is_region(node) for node in nodes):
        return graph
    if depth > _DEPTH:
        raise UnsafeCheckpoint("The program wraps graphs in graphs without end.")
    tables = {name: dict(mapping(graph.get(name, {}), name)) for name in _TABLES}
    try:
        names = _Names({name for table in tables.values() for name in table} | _made(graph).keys())
        flattened: list[Any] = []
        for node in nodes:
            flattened += _inlined(node, tables, names, depth) if _is_region(node) else [node]
    except RecursionError:
        raise UnsafeCheckpoint("The program is nested too deeply.") from None
    return {**graph, **tables, "nodes": flattened}


def _is_region(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("target"), str) and node["target"] in _PLACES


class _Names:
    """Names that are not taken."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._count = 0

    def fresh(self) -> str:
        self._count += 1
        while (name := f"inner_{self._count}") in self._taken:
            self._count += 1
        return name


def _inlined(node: Mapping[str, Any], tables: Mapping[str, dict[str, Any]], names: _Names, depth: int) -> Iterator[Any]:
    """The calls of one region, whose results keep the names that the caller gave them, and their descriptions in
    `tables`."""
    graph, given = _region(node)
    inner = flat(graph, depth + 1)
    new = {name: outer for (_, outer), (_, name) in _pairs(given, inner.get("inputs"))}
    made = _made(inner)
    if not new.keys().isdisjoint(made):
        raise MalformedCheckpoint("The program defines a value of a region twice.", _HINT)
    again = []
    for (kind, outer), (_, name) in _pairs(node.get("outputs"), inner.get("outputs")):
        if name in made and name not in new:
            new[name] = outer
        else:
            again.append((kind, outer, name))
    new.update((name, names.fresh()) for name in made if name not in new)
    for table in _TABLES:
        # What is said of other values is not needed, but has to be sound as well.
        for name, value in mapping(inner.get(table, {}), table).items():
            tables[table][new[name] if name in made else names.fresh()] = value
    for call in inner["nodes"]:
        yield {key: _renamed(value, new) if key in ("inputs", "outputs") else value for key, value in call.items()}
    yield from (_same(kind, outer, _known(name, new)) for kind, outer, name in again)


def _region(node: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """The graph that a call wraps, and what it is given."""
    place, switch = _PLACES[node["target"]]
    given = [mapping(each, "an argument").get("arg") for each in sequence(node.get("inputs"), "a region's arguments")]
    if len(given) <= place:
        raise MalformedCheckpoint("The program calls a region without its graph.", _HINT)
    if node["target"] == _AUTOCAST and truth(only(given[switch], "as_bool"), "whether a region is on"):
        raise UnsupportedCheckpoint(
            "The program opens torch.autocast, under which each machine computes in other types.",
            "Export it without, or with the types written down: torch.export.export(…).run_decompositions({}).",
        )
    return mapping(only(given[place], "as_graph"), "a region").get("graph"), given[place + 1 :]


def _pairs(outer: Any, inner: Any) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """The values on both sides of a region's border, each by its kind and name."""
    outer, inner = sequence(outer, "a region's border"), sequence(inner, "a region's border")
    if len(outer) != len(inner):
        raise MalformedCheckpoint("The program passes a region another number of values than it takes.", _HINT)
    for one, two in zip(map(_value, outer), map(_value, inner), strict=True):
        if one[0] != two[0]:
            raise MalformedCheckpoint("The program passes a region a value of another kind than it takes.", _HINT)
        yield one, two


def _value(data: Any) -> tuple[str, str]:
    kind, value = choice(data, "value of a region")
    if kind not in _SAME:
        raise UnsupportedCheckpoint(
            f"The program passes a region a value of kind {kind[:40]!r}, which is not read.",
            "Export it with torch.export.export(…).run_decompositions({}), which leaves no regions.",
        )
    return kind, text(mapping(value, "a value").get("name" if kind == "as_tensor" else "as_name"), "a name")


def _made(graph: Mapping[str, Any]) -> dict[str, None]:
    """The names of all that a graph's calls make."""
    found: dict[str, None] = {}

    def walk(data: Any) -> None:
        if isinstance(data, dict):
            found.update((data[key], None) for key in _NAMING if isinstance(data.get(key), str))
        for each in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
            walk(each)

    for node in sequence(graph.get("nodes"), "the list of calls"):
        walk(mapping(node, "a call").get("outputs"))
    return found


def _renamed(data: Any, new: Mapping[str, str]) -> Any:
    """Arguments or results with every value under its new name; an argument's own name is the operator's word."""
    if isinstance(data, list):
        return [_renamed(each, new) for each in data]
    if not isinstance(data, dict):
        return data
    if "arg" in data:
        return {**data, "arg": _renamed(data["arg"], new)}
    return {
        key: _known(value, new) if key in _NAMING and isinstance(value, str) else _renamed(value, new)
        for key, value in data.items()
    }


def _known(name: str, new: Mapping[str, str]) -> str:
    if name not in new:
        raise MalformedCheckpoint(f"The program reads {name[:60]} in a region that is not given it.", _HINT)
    return new[name]


def _same(kind: str, name: str, source: str) -> dict[str, Any]:
    """A call that gives `source` another name."""

    def value(of: str) -> dict[str, Any]:
        return {kind: {"name" if kind == "as_tensor" else "as_name": of}}

    return {
        "target": _SAME[kind],
        "inputs": [{"name": "self" if kind == "as_tensor" else "a", "arg": value(source), "kind": 1}],
        "outputs": [value(name)],
    }
