"""A program's calls as TorchScript source, one line a call."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Collection, Iterable, Mapping

from rightrank.models.program.calls import CONVOLUTION, Convolution
from rightrank.models.program.dtypes import DTYPES
from rightrank.models.program.graph import TEXT, Argument, Constant, Graph, Node, Ref

LAYOUTS = {"strided": 0}
MEMORY_FORMATS = {"contiguous_format": 0, "preserve_format": 1, "channels_last": 2, "channels_last_3d": 3}
_CONSTANTS: Mapping[str, Mapping[str, int]] = {
    "dtype": {name: dtype.script for name, dtype in DTYPES.items()},
    "layout": LAYOUTS,
    "memory_format": MEMORY_FORMATS,
}
FUNCTIONS = {
    "aten.sym_size.int": "size",
    "aten.sym_numel.default": "numel",
    "operator.floordiv": "floordiv",
    "operator.truediv": "div",
    "operator.mod": "remainder",
    # TorchScript would gather a sum of four or more `mm` into one product, which rounds otherwise.
    "aten.mm.default": "matmul",
}
# What Python calls by no name of torch's.
BARE = {
    "torch.sym_float": "float",
    "torch.sym_int": "int",
    "torch.sym_not": "not ",
    "torch.sym_max": "ops.prim.max",
    "torch.sym_min": "ops.prim.min",
    "torch.sym_sqrt": "torch.sqrt",
}
# Of truths about sizes, and of one size: TorchScript has no function by these names.
INFIX = {"operator.and_": " and ", "operator.or_": " or ", "operator.pos": ""}
# Among the names of values that of the device that the program runs on, whatever device the publisher had.
DEVICE = "its device"
RESERVED = {
    "training", "forward", "_is_full_backward_hook", "self", "torch", "CONSTANTS", "annotate", "NoneType", "Ellipsis",
}  # fmt: skip


def attribute_names(qualified: Iterable[str], suffixes: Collection[str]) -> dict[str, str]:
    """A distinct TorchScript attribute for every tensor, as close to its qualified name as syntax allows; with any of
    the suffixes it is no other's either."""
    names: dict[str, str] = {}
    taken = set(RESERVED)
    for original in qualified:
        base = re.sub(r"\W", "_", original, flags=re.ASCII)
        if not base or not base[0].isalpha() or keyword.iskeyword(base):
            base = f"t_{base}"
        name, count = base, 1
        while not taken.isdisjoint(f"{name}{suffix}" for suffix in suffixes):
            count += 1
            name = f"{base}_{count}"
        taken |= {f"{name}{suffix}" for suffix in suffixes}
        names[original] = name
    return names


def value_names(graph: Graph) -> dict[str, str]:
    """A short local variable for every value that a node makes or the caller passes."""
    made = [spec.name for spec in graph.inputs]
    made += [name for node in graph.nodes for name in node.outputs if name]
    return {name: f"v{index}" for index, name in enumerate(made)}


def call(node: Node, names: Mapping[str, str]) -> str:
    """The node as statements, each ending in a newline; `names` maps values to expressions."""
    if node.op == CONVOLUTION and not (convolution := Convolution.of(node)).transposed:
        # By the name for its dimensions: `torch.jit.freeze` folds a batch norm into that, not into `convolution`.
        called = (convolution.input, convolution.weight, convolution.bias, *convolution.geometry, convolution.groups)
        values = ", ".join(render(argument, names) for argument in called)
        return _assign(node, f"torch.conv{len(convolution.stride)}d({values})", names)
    if node.op == "aten.addmm.default" and len(node.args) == 3 and not node.kwargs:
        # TorchScript would split addmm into a product and a sum, which round otherwise.
        added, inputs, matrix = (render(argument, names) for argument in node.args)
        return _assign(node, f"torch.linear({inputs}, torch.t({matrix}), {added})", names)
    arguments = [render(a, names) for a in node.args]
    if node.op in INFIX:
        return _assign(node, INFIX[node.op].join(arguments), names)
    arguments += [f"{key}={render(value, names)}" for key, value in node.kwargs]
    return _assign(node, f"{_function(node.op)}({', '.join(arguments)})", names)


def render(argument: Argument, names: Mapping[str, str]) -> str:
    """An argument as a TorchScript expression."""
    if isinstance(argument, Ref):
        return names[argument.name]
    if isinstance(argument, tuple):
        items = ", ".join(render(item, names) for item in argument)
        if not argument:
            return "annotate(List[int], [])"
        if None in argument:
            return f"annotate(List[Optional[Tensor]], [{items}])"
        return f"[{items}]"
    if isinstance(argument, Constant):
        if argument.type == "device":
            return names[DEVICE]
        return str(_CONSTANTS[argument.type][argument.value])
    if isinstance(argument, str):
        if not TEXT.match(argument):
            raise ValueError(f"no call may pass the text {argument!r}")
        return f'"{argument}"'
    if isinstance(argument, float) and not math.isfinite(argument):
        return f'float("{argument}")'
    return repr(argument)


def expression(node: Node, names: Mapping[str, str]) -> str:
    """A call with one result as an expression."""
    return call(node, {**names, node.outputs[0]: "_"}).strip().removeprefix("_ = ")


def _function(op: str) -> str:
    return BARE.get(op) or f"torch.{FUNCTIONS.get(op, op.split('.')[1])}"


def _assign(node: Node, expression: str, names: Mapping[str, str]) -> str:
    results = [names.get(name, "_") for name in node.outputs]
    if not node.listed:
        tail = "," if len(results) > 1 else ""
        return f"    {', '.join(results)}{tail} = {expression}\n"
    whole = f"{names[next(name for name in node.outputs if name)]}_"
    items = [f"    {names[name]} = {whole}[{index}]\n" for index, name in enumerate(node.outputs) if name]
    return f"    {whole} = {expression}\n" + "".join(items)
