from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from rightrank.models.confinement import layers
from rightrank.service.jobs import reading
from rightrank.service.problems import Problem
from rightrank.service.settings import Settings
from tests.service.conftest import Running, left

ALL: Mapping[str, bool] = dict.fromkeys(layers.LAYERS, True)


def having(monkeypatch: pytest.MonkeyPatch, **held: bool) -> None:
    monkeypatch.setattr(layers, "available", lambda: {**ALL, **held})


def test_an_upload_is_refused_where_a_required_layer_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, landlock=False)
    with pytest.raises(Problem, match=r"landlock.*RIGHTRANK_SANDBOX=best") as caught:
        reading.admit(Settings(sandbox="require"))
    assert caught.value.kind == "sandbox-missing"


@pytest.mark.parametrize(
    ("settings", "held"),
    [
        ({"sandbox": "require"}, {"network": False}),
        ({"sandbox": "best"}, {"landlock": False}),
        ({}, {"seccomp": False}),
        # Its workers may be on other machines.
        ({"sandbox": "require", "redis_url": "redis://other:6379/0"}, {"landlock": False}),
    ],
)
def test_and_not_where_it_may_be_read(
    settings: dict[str, str], held: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    having(monkeypatch, **held)
    reading.admit(Settings(**settings))  # type: ignore[arg-type]


def test_what_holds_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rightrank")
    having(monkeypatch, network=False)
    reading.tell(Settings())
    assert "limits, capabilities, landlock, seccomp" in caplog.text
    assert "WARNING" not in caplog.text
    having(monkeypatch, seccomp=False)
    reading.tell(Settings(sandbox="require"))
    assert "lacks seccomp: uploads are refused" in caplog.text
    reading.tell(Settings(sandbox="best"))
    assert "uploads are read all the same" in caplog.text


def test_the_service_says_what_holds_and_refuses_before_it_takes_anything_in(
    web: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert web.client.get("/readyz").json()["sandbox"] == dict(layers.available())
    problem = Problem("sandbox-missing", "This machine cannot confine what reads uploads.")

    def refuse(settings: Settings) -> None:
        raise problem

    monkeypatch.setattr(reading, "admit", refuse)
    (tmp_path / "net").write_bytes(b"x")
    answer = web.push({"checkpoint": tmp_path / "net"})
    assert (answer.status_code, answer.json()["type"]) == (501, "/problems/sandbox-missing")
    assert left(web.parts) == []
