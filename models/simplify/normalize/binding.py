"""A call's arguments by name, and under other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch

from rightrank.models.program.graph import Argument, Node, substitute

Bound: TypeAlias = dict[str, Argument]


def bind(node: Node) -> Bound:
    """Every argument of an aten call by its schema name, defaults filled in."""
    parameters = schema(node.op).arguments
    bound: Bound = {}
    for index, parameter in enumerate(parameters):
        if index < len(node.args):
            bound[parameter.name] = node.args[index]
        elif parameter.has_default_value():
            bound[parameter.name] = _plain(parameter.default_value)
    bound.update(node.kwargs)
    return bound


def schema(op: str) -> Any:
    """Torch's schema of an aten operator, "aten.name.overload"."""
    _, name, overload = op.split(".")
    return getattr(getattr(torch.ops.aten, name), overload)._schema


def _plain(value: Any) -> Argument:
    return tuple(_plain(item) for item in value) if isinstance(value, (list, tuple)) else value


def renamed(node: Node, new: Mapping[str, str]) -> Node:
    """The call reading other values; those that `new` does not name stay."""
    return Node(
        node.name,
        node.op,
        tuple(substitute(a, new) for a in node.args),
        tuple((key, substitute(value, new)) for key, value in node.kwargs),
        node.outputs,
        node.listed,
    )
