"""One spelling for every program: eval mode, no mutation, canonical operators.

Training-time calls become what the module does in eval mode; in-place calls become their functional
twins where nothing else sees the change, and the program is refused otherwise; each layer gets one
spelling. Every rewrite calls the same kernel on the same operands as the original, so the outputs do
not change by a bit.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rightrank.models.program.graph import Graph, Ref, TensorMeta
from rightrank.models.program.operators import VANISHING, names
from rightrank.models.simplify.normalize.binding import renamed
from rightrank.models.simplify.normalize.inplace import functional
from rightrank.models.simplify.normalize.scalars import as_tensors
from rightrank.models.simplify.normalize.spelling import canonical

__all__ = ["normalize"]

_IDENTITIES = names(
    "aten",
    """
    dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout detach alias
    dropout_ feature_dropout_ alpha_dropout_ feature_alpha_dropout_ detach_
    """,
)


def normalize(graph: Graph, tensors: Mapping[str, Tensor], metas: Mapping[str, TensorMeta]) -> Graph:
    """The same function in eval mode and canonical spelling; see the module's docstring.

    `metas` is what is known of tensor values. Shapes tell a batched convolution from one without a batch
    dimension, which keeps its spelling, and what padding="same" comes to; dtypes tell where an in-place call
    would not promote. Raises UnsupportedCheckpoint for mutation that cannot be removed.
    """
    graph = _drop(graph, VANISHING)
    graph = _without_identities(graph, _IDENTITIES)
    graph = functional(graph, metas)
    graph = _without_identities(graph, frozenset({"aten.lift_fresh_copy.default"}))
    graph = canonical(graph, tensors, metas)
    return as_tensors(graph, metas).live()


def _drop(graph: Graph, ops: frozenset[str]) -> Graph:
    return graph.replace(nodes=tuple(node for node in graph.nodes if node.op not in ops))


def _without_identities(graph: Graph, ops: frozenset[str]) -> Graph:
    """Calls that return their first argument unchanged (in eval mode), replaced by that argument."""
    sources: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        node = renamed(node, sources)
        source = node.args[0] if node.args else None
        if node.op in ops and isinstance(source, Ref):
            sources[node.outputs[0]] = source.name
        else:
            kept.append(node)
    return graph.replace(nodes=tuple(kept), outputs=tuple(sources.get(name, name) for name in graph.outputs))
