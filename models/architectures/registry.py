"""Architectures by name, so that a bare state dict can be given its graph without any uploaded code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rightrank.models.architectures.arguments import Kind
from rightrank.models.errors import MalformedCheckpoint, UnsupportedCheckpoint

# Four gigabytes in float32. A module is counted on torch's meta device, which allocates nothing.
LARGEST = 1_000_000_000


@dataclass(frozen=True)
class Architecture:
    """`build(**arguments)` makes the module; `shape(arguments)` is one input without its batch, (C, H, W).

    `build` may raise ValueError for arguments that are each in bounds but do not fit together.
    """

    build: Callable[..., nn.Module]
    shape: Callable[[Mapping[str, Any]], tuple[int, ...]]
    arguments: Mapping[str, Kind]


def resolve(name: str, architectures: Mapping[str, Architecture]) -> Architecture:
    """The architecture called `name`; UnsupportedCheckpoint where there is none."""
    # The name comes from a client's JSON, so it may be anything, an unhashable list too.
    if isinstance(name, str) and name in architectures:
        return architectures[name]
    if isinstance(name, str) and name.startswith("timm:"):
        try:
            # Imported here: timm is optional, and slow to import for everybody else.
            from rightrank.models.architectures import timm_models
        except (ImportError, RuntimeError, OSError) as error:
            # Besides being away, a part of it may be made for another torch.
            missing = isinstance(error, ImportError) and error.name
            raise UnsupportedCheckpoint(
                "timm's models are made where uploads are read, of a service in its workers' environment, and there "
                f"{f'is no module {missing}' if missing else f'timm cannot be imported: {str(error)[:200]}'}.",
                "Whoever runs it installs timm there, with the torchvision that fits its torch. Or export the model "
                "where timm is, and upload the .pt2 file (torch.export.save).",
            ) from error
        return timm_models.find(name.removeprefix("timm:"))
    raise UnsupportedCheckpoint(
        f"There is no architecture called {str(name)[:60]!r}.",
        f"Known: {', '.join(architectures)}, and timm:<name> where the service's workers have timm. "
        "A network of any other kind can be uploaded as a .pt2 file (torch.export.save).",
    )


def checked(architecture: Architecture, given: Mapping[str, object]) -> dict[str, Any]:
    """All arguments, defaults filled in; MalformedCheckpoint for an unknown name or a bad value."""
    unknown = sorted(str(key)[:60] for key in given if key not in architecture.arguments)
    if unknown:
        raise MalformedCheckpoint(
            f"The architecture has no argument called {unknown[0]!r}.",
            f"It takes: {', '.join(architecture.arguments)}.",
        )
    return {
        name: kind.check(name, given[name]) if name in given else kind.default
        for name, kind in architecture.arguments.items()
    }


def make(architecture: Architecture, arguments: Mapping[str, Any]) -> nn.Module:
    """The module with fresh weights, on the CPU, in eval mode.

    MalformedCheckpoint where it would have more than `LARGEST` weights, or where the arguments do not fit
    together.
    """
    try:
        with torch.device("meta"):
            outline = architecture.build(**arguments)
    except ValueError as error:
        raise MalformedCheckpoint(f"The architecture's arguments do not fit together: {error}.") from error
    count = sum(tensor.numel() for tensor in outline.state_dict().values())
    if count > LARGEST:
        raise MalformedCheckpoint(
            f"The architecture has {count:,} weights with these arguments.",
            f"At most {LARGEST:,} are built; a larger network has to be uploaded as a .pt2 file.",
        )
    return architecture.build(**arguments).eval()
