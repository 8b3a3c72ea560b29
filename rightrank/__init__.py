"""One trained model in, any size out.

    read, build, plan, write, measure    from a trained network to a measured file of any size (extra `models`)
    export                               a trained module as a file that can be published (the same extra)
    push                                 that, uploaded with its data: one line to publish (the same extra)
    Client                               publish to a server and fetch from it

Nothing is imported before it is asked for, so that a client needs neither torch nor the server's packages.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rightrank.models.exporting import export
    from rightrank.models.face import build, measure, plan, read, write
    from rightrank.service.client.http import Client
    from rightrank.service.client.publish import push

__all__ = ["Client", "build", "export", "measure", "plan", "push", "read", "write"]

_HOMES = {
    "Client": "rightrank.service.client.http",
    "export": "rightrank.models.exporting",
    "push": "rightrank.service.client.publish",
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
