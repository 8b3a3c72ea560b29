"""The table that a stopped benchmark takes up again, and its plot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import results


@dataclass(frozen=True)
class Row:
    name: str
    seed: int
    accuracy: float
    whole: bool


ROWS = (Row("a, b", 0, 0.1 + 0.2, True), Row('says "c"', 1, 1e-7, False), Row("", 2, 3.0, False))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with all rows."""
    found = tmp_path / "new" / "table.csv"
    table = results.Table(found, Row)
    for row in ROWS:
        table.add(row)
    return found


def test_rows_come_back_as_they_were_with_their_types(path: Path) -> None:
    table = results.Table(path, Row)
    assert table.rows == list(ROWS)
    assert [type(value) for value in vars(table.rows[0]).values()] == [str, int, float, bool]


def test_a_table_without_a_file_is_empty_and_makes_none(tmp_path: Path) -> None:
    assert results.Table(tmp_path / "none.csv", Row).rows == []
    assert not list(tmp_path.iterdir())


def test_a_reopened_table_goes_on_below_its_one_heading(path: Path) -> None:
    results.Table(path, Row).add(Row("d", 3, 0.5, True))
    lines = path.read_text().splitlines()
    assert lines[0] == "name,seed,accuracy,whole" and len(lines) == 5
    assert results.Table(path, Row).rows == [*ROWS, Row("d", 3, 0.5, True)]


def test_it_has_a_row_only_where_all_values_agree(path: Path) -> None:
    table = results.Table(path, Row)
    assert table.has(name="a, b", seed=0) and table.has(whole=False)
    assert not table.has(name="a, b", seed=1) and not table.has(seed="0")


@pytest.mark.parametrize("missing", [1, 4, 12])
def test_a_line_that_was_cut_short_is_done_again(path: Path, missing: int) -> None:
    """As after a full disk or a lost machine: what was in part written is gone, the rest stays."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-missing])
    table = results.Table(path, Row)
    assert table.rows == list(ROWS[:2])
    table.add(ROWS[2])
    assert path.read_bytes() == whole


def test_a_file_that_has_no_heading_yet_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for stub in (b"", b"name,se"):
        path.write_bytes(stub)
        results.Table(path, Row).add(ROWS[0])
        assert results.Table(path, Row).rows == [ROWS[0]]


def test_a_file_with_other_columns_is_left_alone(path: Path) -> None:
    text = path.read_text().replace("seed", "number")
    path.write_text(text)
    with pytest.raises(SystemExit, match="other columns"):
        results.Table(path, Row)
    assert path.read_text() == text


def test_only_a_quick_run_without_a_folder_of_its_own_is_thrown_away(tmp_path: Path) -> None:
    with results.place(True, None) as folder:
        (folder / "x.csv").write_text("x")
    assert not folder.exists() and results.RESULTS not in (folder, *folder.parents)
    with results.place(False, None) as folder:
        assert folder == results.RESULTS
    for quick in (True, False):
        with results.place(quick, tmp_path) as folder:
            assert folder == tmp_path
    assert tmp_path.exists()


def test_a_plot_is_an_svg_with_every_panel_and_line_and_the_same_each_time(tmp_path: Path) -> None:
    panels = {"first": {"one": [(0.5, 2.0), (0.1, 1.0)], "two": [(0.1, 3.0)]}, "second": {"one": [(1.0, 1.0)]}}
    for name in ("a.svg", "b.svg"):
        results.plot(tmp_path / "new" / name, panels, "share", "percent", logarithmic=True)
    text = (tmp_path / "new" / "a.svg").read_text()
    assert text.startswith("<?xml") and "<svg" in text and text.rstrip().endswith("</svg>")
    # Letters are drawn as shapes; what they say stays as a comment.
    assert all(f"<!-- {word} -->" in text for word in ("first", "second", "one", "share", "percent"))
    assert text == (tmp_path / "new" / "b.svg").read_text()
