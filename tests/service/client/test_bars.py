import io
import time

import pytest
from rich.console import Console

from rightrank.service.client.bars import Bars


def shown(terminal):
    stream = io.StringIO()
    with Bars(Console(file=stream, force_terminal=terminal, width=120)) as bars:
        bars("uploading", 1_000_000, 4_000_000, "bytes")
        bars("decomposing", 3, 12, "layers")
    return stream.getvalue()


def test_each_phase_has_its_own_bar_with_its_own_unit_and_ends_with_all_that_it_counted():
    text = shown(terminal=True)
    assert "uploading" in text and "decomposing" in text
    assert "4.0 MB of 4.0 MB" in text and "12 of 12 layers" in text


def test_a_phase_that_fails_ends_where_it_was():
    stream = io.StringIO()
    with pytest.raises(ValueError), Bars(Console(file=stream, force_terminal=True, width=120)) as bars:
        bars("decomposing", 3, 12, "layers")
        raise ValueError
    assert "3 of 12 layers" in stream.getvalue() and "12 of 12" not in stream.getvalue()


def test_nothing_is_drawn_where_nobody_watches():
    assert shown(terminal=False) == ""


def test_a_log_gets_a_line_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with Bars(Console(file=stream, force_terminal=False, width=120)) as bars:
        for layer in range(60):
            now[0] += 1
            bars("decomposing", layer, 60, "layers")
    assert stream.getvalue().splitlines() == [f"decomposing {count} of 60 layers" for count in range(9, 60, 10)]
