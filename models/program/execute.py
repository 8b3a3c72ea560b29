"""Run a program: a plain interpreter over the graph."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rightrank.models.program.calls import RECURRENT
from rightrank.models.program.graph import Argument, Constant, Graph, Node, Ref, references

Visitor: TypeAlias = Callable[[Node, list[Any], Any], Any]


@functools.cache
def resolve(op: str) -> Callable[..., Any]:
    """The function that an op name stands for."""
    namespace, _, rest = op.partition(".")
    if namespace == "aten":
        name, overload = rest.rsplit(".", 1)
        return getattr(getattr(torch.ops.aten, name), overload)  # type: ignore[no-any-return]
    assert namespace in ("operator", "torch")
    return getattr(operator if namespace == "operator" else torch, rest)  # type: ignore[no-any-return]


def run(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    *,
    visit: Visitor | None = None,
) -> list[Tensor]:
    """The program's outputs on `inputs`.

    Each value is dropped after its last reader, so that peak memory is that of the network and not of
    its whole trace. `visit(node, arguments, result)` sees every call as it happens and returns what
    the rest of the graph shall use as its result.
    """
    device = inputs[0].device
    values: dict[str, Any] = {name: tensors[qualified] for name, qualified in graph.tensors.items()}
    values.update((spec.name, value) for spec, value in zip(graph.inputs, inputs, strict=True))
    expiring = last_uses(graph)
    for node in graph.nodes:
        arguments = [evaluate(a, values, device) for a in node.args]
        keywords = {key: evaluate(value, values, device) for key, value in node.kwargs}
        call = resolve(node.op)
        if node.op in RECURRENT and device.type == "meta" and not keywords:
            call = functools.partial(_outline, call)
        result = call(*arguments, **keywords)
        if visit is not None:
            result = visit(node, arguments, result)
        store(node, result, values)
        for name in expiring.get(node.name, ()):
            del values[name]
    return [values[name] for name in graph.outputs]


def _outline(call: Callable[..., Any], data: Tensor, *others: Any) -> Any:
    """What a recurrent call makes of shapes alone: by one step, since for all torch would take as long as with data."""
    dim = 1 if others[-1] else 0
    if data.ndim != 3 or not data.shape[dim]:
        return call(data, *others)
    made, *states = call(data.narrow(dim, 0, 1), *others)
    shape = [*made.shape]
    shape[dim] = data.shape[dim]
    return made.new_empty(shape), *states


def store(node: Node, result: Any, values: dict[str, Any]) -> None:
    """Put a call's result, or each of its results, into `values` under the node's output names."""
    if len(node.outputs) == 1 and not node.listed and not isinstance(result, (tuple, list)):
        values[node.outputs[0]] = result
    else:
        values.update((name, value) for name, value in zip(node.outputs, result, strict=False) if name)


def last_uses(graph: Graph) -> dict[str, list[str]]:
    """For each node, the values that nothing reads after it."""
    last: dict[str, str] = {}
    for node in graph.nodes:
        last.update((name, node.name) for name in node.outputs if name)
        last.update((name, node.name) for name in node.inputs())
    for name in graph.outputs:
        last.pop(name, None)
    expiring: dict[str, list[str]] = {}
    for name, node_name in last.items():
        expiring.setdefault(node_name, []).append(name)
    return expiring


def shapes(
    graph: Graph, tensors: Mapping[str, Tensor], batch: int = 2, inputs: Sequence[Tensor] | None = None
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor value for `inputs`, or when the free batch dimension is `batch`, without computing
    any."""
    found: dict[str, tuple[int, ...]] = {}

    def note(node: Node, arguments: list[Any], result: Any) -> Any:
        results = result if isinstance(result, (tuple, list)) else (result,)
        for name, value in zip(node.outputs, results, strict=False):
            if isinstance(value, Tensor):
                found[name] = tuple(value.shape)
        return result

    meta = without_data(graph, tensors)
    inputs = example_inputs(graph, batch, device="meta") if inputs is None else [x.to("meta") for x in inputs]
    found.update((spec.name, tuple(value.shape)) for spec, value in zip(graph.inputs, inputs, strict=True))
    with torch.no_grad():
        run(graph, meta, inputs, visit=note)
    return found


def without_data(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as shapes alone, but for the masks of `x[:, mask]`: on their values the result's shape depends."""
    masks = [node.args[1:] if node.op == "aten.index.Tensor" else () for node in graph.nodes]
    read = {
        name for node, mask in zip(graph.nodes, masks, strict=True) for name in {*node.inputs()} - {*references(mask)}
    }
    plain = {qualified for value, qualified in graph.tensors.items() if value in read}
    plain |= {name for name, tensor in tensors.items() if tensor.dtype != torch.bool}
    return {name: tensor.to("meta") if name in plain else tensor for name, tensor in tensors.items()}


def parameters(graph: Graph, tensors: Mapping[str, Tensor]) -> int:
    """How many parameters the program reads."""
    return sum(tensors[name].numel() for name in graph.parameters & graph.read)


def example_inputs(graph: Graph, batch: int, device: str = "cpu") -> list[Tensor]:
    """Standard normal (for integers: zero) inputs of the declared shapes."""
    made = []
    for spec in graph.inputs:
        dtype = getattr(torch, spec.dtype)
        fill = torch.randn if dtype.is_floating_point else torch.zeros
        made.append(fill(spec.sizes(batch), dtype=dtype, device=device))
    return made


def evaluate(argument: Argument, values: Mapping[str, Any], device: torch.device) -> Any:
    """The argument as torch takes it; a device constant becomes the device that the program runs on."""
    if isinstance(argument, Ref):
        return values[argument.name]
    if isinstance(argument, tuple):
        return [evaluate(item, values, device) for item in argument]
    if isinstance(argument, Constant):
        return device if argument.type == "device" else getattr(torch, argument.value)
    return argument
