"""Closed-form correction after a cut: what follows a layer is told how the cut moved its outputs.

Where a batch norm follows, its stored mean and variance move with the outputs' (arXiv:1910.13141,
"bn"), relatively: mean = stored + (cut − whole), variance = stored · (cut / whole), so that nothing
changes at full rank and what the calibration images lack of the training augmentation cancels. Else
the layer's bias takes the difference of the means, as does that of a product inside a recurrent call. One row per rank,
computed once with the master.

The variance takes the whole ratio, but for channels of which a cut keeps next to nothing. The coefficient of the
regression of the whole layer's outputs on the cut's is 1, so that the variance should stay; measured, that loses far
more (docs/cutting.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rightrank.models.factor.factors import Factors
from rightrank.models.factor.layer import Layer
from rightrank.models.program.calls import BATCH_NORM, Convolution, Handed, Linear, Recurrent, layer_call, transposed
from rightrank.models.program.graph import Argument, Node, Ref
from rightrank.models.program.norms import statistics_of
from rightrank.models.program.program import Program

# No channel is amplified by more than the root of what one is of this.
LEAST = 0.03


@dataclass(frozen=True)
class Correction:
    """A stored tensor that a layer's cut changes, and how: "bias", "mean" or "variance"."""

    tensor: str
    role: str


def corrections(program: Program, layer: Layer) -> list[Correction]:
    """What is to correct after `layer`; nothing where those tensors, or the layer, are used more than once."""
    if len(layer.calls) != 1:
        return []
    graph = program.graph
    node = next(node for node in graph.nodes if node.name == layer.calls[0])
    call, followers = layer_call(node), program.users.get(node.outputs[0], ())
    if isinstance(call, (Recurrent, Handed)):
        bias = graph.stored(_bias_within(call, node.outputs[0], followers))
        return [Correction(bias, "bias")] if bias is not None and program.read_once(bias) else []
    if not isinstance(call, (Linear, Convolution)):
        return []
    bias = graph.stored(call.bias)
    found = [] if bias is None else [Correction(bias, "bias")]
    if len(followers) == 1 and followers[0].op == BATCH_NORM and node.outputs[0] not in graph.outputs:
        stored = statistics_of(graph, followers[0])
        # A linear layer's outputs lie in the last dimension, a batch norm's channels in the second.
        behind = not isinstance(call, Linear) or layer.positions == 1
        if behind and stored is None:
            return []
        outputs = layer.shape[1] if transposed(call) else layer.outputs
        if behind and stored is not None and {program.tensors[name].numel() for name in stored} <= {outputs}:
            found = [Correction(stored[0], "mean"), Correction(stored[1], "variance")]
    return found if all(program.read_once(each.tensor) for each in found) else []


def _bias_within(call: Recurrent | Handed, value: str, followers: Sequence[Node]) -> Argument:
    """The bias of a product inside a recurrent call: of its inputs, or of the weight that is handed on as `value`."""
    if isinstance(call, Recurrent):
        return call.bias
    receiver = layer_call(followers[0])
    return receiver.hidden_bias if isinstance(receiver, Recurrent) and receiver.hidden == Ref(value) else None


def rows(correction: Correction, stored: Tensor, factors: Factors) -> Tensor:
    """The tensor's values (R, C_out) at every rank, r = 1 first."""
    moved = factors.moved
    assert moved is not None
    if correction.role == "variance":
        found = stored.double() * moved.scale.clamp_min(LEAST)
    else:
        found = stored.double() + (moved.shift if correction.role == "mean" else -moved.shift)
    return found.to(stored.dtype)
