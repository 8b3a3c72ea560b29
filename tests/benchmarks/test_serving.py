from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import load, processes, serving


def test_without_nginx_the_other_rate_is_measured_and_the_package_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "find_nginx", lambda: None)
    monkeypatch.setattr(load, "rate", lambda *_: 7.0)
    missing: dict[str, str] = {}
    found = serving.gets("http://localhost/", tmp_path, serving.QUICK, missing)
    assert found == {"GET, per s": 7.0, "nginx GET, per s": None, "GET / nginx": None}
    serving.complain({"not measured": missing})
    assert "NOT MEASURED: GET / nginx" in capsys.readouterr().err and "apt install nginx" in missing["GET / nginx"]


def test_the_peak_of_a_process_remembers_what_it_no_longer_has() -> None:
    before = serving.memory(os.getpid(), "VmRSS")
    bytearray(b"x" * (64 << 20))
    # Linux counts resident pages in batches, so either figure may be a little late.
    assert serving.memory(os.getpid(), "VmHWM") > before + (32 << 20)


def test_two_sides_are_measured_in_turn() -> None:
    order: list[str] = []

    def side(name: str, rates: list[float]) -> float:
        order.append(name)
        return rates.pop()

    ours, theirs = [3.0, 1.0, 2.0], [30.0, 10.0, 20.0]
    assert serving.alternate(lambda: side("ours", ours), lambda: side("theirs", theirs), 3) == (2.0, 20.0)
    assert order == ["ours", "theirs"] * 3
