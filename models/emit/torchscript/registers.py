"""Which local variable of the code holds each value."""

from __future__ import annotations

from collections.abc import Sequence

from rightrank.models.program.graph import Graph, Node

# Operators that give one tensor: the local variable of what is not read any more may hold it.
ONE_TENSOR = {
    f"aten.{name}"
    for name in [
        "convolution.default",
        "linear.default",
        "relu.default",
        "batch_norm.default",
        "add.Tensor",
        "mul.Tensor",
        "sub.Tensor",
        "div.Tensor",
        "gelu.default",
        "silu.default",
        "sigmoid.default",
        "hardtanh.default",
        "hardswish.default",
        "hardsigmoid.default",
        "tanh.default",
        "max_pool2d.default",
        "avg_pool2d.default",
        "adaptive_avg_pool2d.default",
        "mean.dim",
        "flatten.using_ints",
        "view.default",
        "reshape.default",
        "permute.default",
        "transpose.int",
        "matmul.default",
        "softmax.int",
        "layer_norm.default",
        "clone.default",
        "scaled_dot_product_attention.default",
        "conv1d.default",
        "conv2d.default",
        "conv3d.default",
        "embedding.default",
    ]
}


def registers(graph: Graph, nodes: Sequence[Node]) -> dict[str, str]:
    """A local variable for every value that a node makes or the caller passes; values that are one tensor each take
    that of one which is not read any more, so that lines are alike."""
    last: dict[str, int] = {}
    for number, node in enumerate(nodes):
        last.update((name, number) for name in node.outputs if name)
        last.update((name, number) for name in node.inputs())
    last.update((name, len(nodes)) for name in graph.outputs)
    names = {spec.name: f"x{number}" for number, spec in enumerate(graph.inputs)}
    free: list[int] = []
    held: dict[str, int] = {}
    count = 0
    for number, node in enumerate(nodes):
        reusable = node.op in ONE_TENSOR and len(node.outputs) == 1 and not node.listed
        ended = [name for name, at in last.items() if at == number and name in held]
        if reusable:
            free += sorted(held.pop(name) for name in ended)
            free.sort()
        for name in filter(None, node.outputs):
            if reusable and free:
                held[name] = free.pop(0)
                names[name] = f"v{held[name]}"
                continue
            names[name] = f"v{count}"
            if reusable:
                held[name] = count
            count += 1
        if not reusable:
            free += sorted(held.pop(name) for name in ended)
            free.sort()
    return names
