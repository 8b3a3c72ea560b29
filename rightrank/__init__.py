"""One trained model in, any size out.

    read, build, plan, write, measure    from a trained network to a measured file of any size (extra `models`)
    Client                               publish to a server and fetch from it

Nothing is imported before it is asked for, so that a client needs neither torch nor the server's packages.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rightrank.models.face import build, measure, plan, read, write
    from rightrank.service.client.http import Client

__all__ = ["Client", "build", "measure", "plan", "read", "write"]

_HOMES = {
    "Client": "rightrank.service.client.http",
    **dict.fromkeys(("build", "measure", "plan", "read", "write"), "rightrank.models.face"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rightrank' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rightrank"):
            raise
        raise ImportError(
            f"rightrank.{name} needs {error.name}: pip install 'rightrank[models]'. A client alone does without."
        ) from error


def __dir__() -> list[str]:
    return __all__
