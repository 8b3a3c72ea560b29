"""The readers that the tests of one process share: starting them takes far longer than what most tests have read."""

from __future__ import annotations

import atexit
import functools
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rightrank.models.checkpoint.readers import Readers


class _Shared(Readers):
    """Readers of several threads."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._one = threading.Lock()

    def ask(self, request: Mapping[str, Any], seconds: float) -> tuple[int | None, bytes]:
        with self._one:
            return super().ask(request, seconds)


@functools.cache
def shared() -> Readers:
    """Those of this process. The first call should come from a thread that lasts."""
    folder = tempfile.TemporaryDirectory()
    readers = _Shared(Path(folder.name))
    atexit.register(folder.cleanup)
    atexit.register(readers.close)
    readers.make_ready()
    return readers
