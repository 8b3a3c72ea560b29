"""timm's models by name, for services where timm is installed; imported only then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from rightrank.models.architectures.arguments import channels, classes
from rightrank.models.architectures.registry import Architecture
from rightrank.models.errors import UnsupportedCheckpoint


def find(name: str) -> Architecture:
    """timm's model `name`, without its weights; UnsupportedCheckpoint where timm has none.

    The name must be in timm's own list, because its `create_model` would also take the address of a
    repository and download it.
    """
    if name not in timm.list_models() and name not in timm.list_pretrained():
        raise UnsupportedCheckpoint(
            f"timm has no model called {name[:60]!r}.",
            "Its names are those of timm.list_models() and timm.list_pretrained().",
        )
    size = tuple(timm.get_pretrained_cfg(name, allow_unregistered=False).input_size)

    def build(**arguments: Any) -> nn.Module:
        made: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=arguments["num_classes"], in_chans=arguments["in_channels"]
        )
        return made

    def shape(arguments: Mapping[str, Any]) -> tuple[int, ...]:
        return (arguments["in_channels"], *size[1:])

    return Architecture(build, shape, {"num_classes": classes(), "in_channels": channels(size[0])})
