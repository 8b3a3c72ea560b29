from __future__ import annotations

import shutil

import pytest

from benchmarks import load, processes


@pytest.fixture(params=["wrk", "benchmarks.load"])
def generator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two that can make requests, as far as this machine has it."""
    name: str = request.param
    if name == "wrk" and shutil.which("wrk") is None:
        pytest.skip("there is no wrk here (Debian: apt install wrk)")
    if name != "wrk":
        monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    return name


def test_answers_without_a_body_are_counted(generator: str) -> None:
    assert load.generator() == generator
    with processes.bare() as address:
        assert load.rate(f"{address}/", 1, {"If-None-Match": '"x"'}) > 0


def test_a_server_that_is_not_there_is_an_error_and_not_a_rate(generator: str) -> None:
    with pytest.raises(RuntimeError):
        load.rate(f"http://127.0.0.1:{processes.free_port()}/", 1)
