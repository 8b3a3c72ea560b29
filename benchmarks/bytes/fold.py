"""A network whose batch norms are folded into the layers before them, which is what others quantise."""

from __future__ import annotations

import copy

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from benchmarks.aimet import with_linear_layers

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def folded(model: nn.Module) -> fx.GraphModule:
    """The same function in evaluation mode, every batch norm that alone follows a convolution or a linear layer folded
    into it, and attention's projections as linear layers."""
    traced = fx.symbolic_trace(with_linear_layers(copy.deepcopy(model)).eval())
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, NORMS):
            continue
        before = node.args[0]
        layer = modules.get(str(before.target)) if before.op == "call_module" and len(before.users) == 1 else None
        if isinstance(layer, nn.Conv2d):
            fused: nn.Module = fuse_conv_bn_eval(layer, norm)
        elif isinstance(layer, nn.Linear):
            fused = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        parent, _, child = str(before.target).rpartition(".")
        setattr(traced.get_submodule(parent), child, fused)
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.recompile()
    traced.delete_all_unused_submodules()
    return traced
