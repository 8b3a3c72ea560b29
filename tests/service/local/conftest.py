"""What the commands without a service share in the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rightrank.models.checkpoint import readers
from tests import reading


class Borrowed(readers.Readers):
    """Those that this process has anyway, which no command ends."""

    def make_ready(self) -> None:
        pass

    def ask(self, request: Mapping[str, Any], seconds: float) -> tuple[int | None, bytes]:
        return reading.shared().ask(request, seconds)


@pytest.fixture(autouse=True)
def borrowed(monkeypatch: pytest.MonkeyPatch) -> type[readers.Readers]:
    """Commands of these tests start no readers of their own; gives what they would have."""
    own = readers.Readers
    reading.shared()
    monkeypatch.setattr(readers, "Readers", Borrowed)
    return own
