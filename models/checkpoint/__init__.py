"""Reading uploaded bytes, which are hostile until read. What is what is decided by content, never by name.

| bytes                                  | read by       |
| -------------------------------------- | ------------- |
| `torch.export.save` archive (.pt2)     | `exported`    |
| `torch.save` archive of a state dict   | `statedict`, with an architecture |
| safetensors                            | `statedict`, with an architecture |
| TorchScript, other pickles, the rest   | refused       |

`sandbox.prepare` does all of it in a child process with hard limits: what services call.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rightrank.models.checkpoint.data import read_data
    from rightrank.models.checkpoint.limits import Limits
    from rightrank.models.checkpoint.reader import read

__all__ = ["Limits", "read", "read_data"]

_HOME = {"Limits": "limits", "read": "reader", "read_data": "data"}


def __getattr__(name: str) -> Any:
    """Loaded when first used: two of them need torch, and who starts the child does not."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
