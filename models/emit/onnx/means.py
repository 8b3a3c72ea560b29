"""Calls that are the mean over all places of an image, or of a sequence, however they are spelled."""

from __future__ import annotations

from rightrank.models.program.graph import Node

POOLS = {f"aten.adaptive_avg_pool{dims}d.default": dims for dims in (1, 2, 3)}
MEAN = "aten.mean.dim"


def over_places(node: Node) -> int:
    """Along how many last dimensions, after those of samples and channels, if there are so many; 0 for other calls."""
    if node.op in POOLS and len(node.args) > 1:
        wanted = node.args[1]
        several = wanted if isinstance(wanted, tuple) else (wanted,)
        return POOLS[node.op] if all(each == 1 for each in several) else 0
    if node.op != MEAN or len(node.args) < 2 or node.kwargs or not isinstance(node.args[1], tuple):
        return 0
    given = [each for each in node.args[1] if isinstance(each, int)]
    for dims in (1, 2, 3):
        if sorted(given) in ([*range(2, 2 + dims)], [*range(-dims, 0)]):
            return dims
    return 0


def keeps_places(node: Node) -> bool:
    """Whether they stay, with a size of one."""
    return node.op != MEAN or (len(node.args) > 2 and node.args[2] is True)
