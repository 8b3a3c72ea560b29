"""Where the tests of what trains run: on the CPU, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Its name; two trainings on it that begin alike end alike."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):  # type: ignore[no-untyped-call]
        yield request.param
