import io

from rich.console import Console

from rightrank.service.client.bars import Bars


def shown(terminal):
    stream = io.StringIO()
    with Bars(Console(file=stream, force_terminal=terminal, width=120)) as bars:
        bars("uploading", 1_000_000, 4_000_000, "bytes")
        bars("decomposing", 3, 12, "layers")
    return stream.getvalue()


def test_each_phase_has_its_own_bar_with_its_own_unit():
    text = shown(terminal=True)
    assert "uploading" in text
    assert "1.0 MB of 4.0 MB" in text
    assert "3 of 12 layers" in text


def test_nothing_is_drawn_where_nobody_watches():
    assert shown(terminal=False) == ""
