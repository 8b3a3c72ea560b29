from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.guarantee import CONFIDENCE, File, Row, certified, chance, measured, show, study, targets, upper
from benchmarks.results import RESULTS, Table
from tests.benchmarks.test_bench_targets import bench, read


def row(*truths: float, images: int = 2000) -> list[File]:
    """Files that have right the first of all images, in these shares."""
    return [
        File(1 - number / 10, 1000 - 100 * number, np.arange(images) < round(share * images))
        for number, share in enumerate(truths)
    ]


def test_a_quick_run_has_all_targets_and_is_wrong_no_oftener_than_is_certified(tmp_path: Path) -> None:
    printed = bench("guarantee", "--results", str(tmp_path))
    rows = Table(tmp_path / "guarantee.csv", Row).rows
    assert len(rows) == len(read(tmp_path / "guarantee.csv")) == 20 and show(rows) in printed
    assert (tmp_path / "guarantee.md").read_text() == show(rows)
    for each in rows:
        assert each.chance <= 1 - CONFIDENCE and each.wrong <= each.measured_wrong
        # Beyond this one run in a million would be: 100 sets at a chance of 5 %.
        assert each.wrong <= 18 and each.none >= each.measured_none


def test_what_is_kept_is_of_the_whole_run_and_is_what_the_page_has() -> None:
    rows = Table(RESULTS / "guarantee.csv", Row).rows
    assert {(each.n, each.draws) for each in rows} == {(500, 1000), (2000, 1000)} and len(rows) == 20
    assert show(rows) == (RESULTS / "guarantee.md").read_text()
    assert show(rows) in (RESULTS.parent / "guarantee.md").read_text()
    assert all(each.chance <= 1 - CONFIDENCE for each in rows)
    # Of ten thousand sets at the hardest targets, five in a hundred and a little for chance.
    assert sum(each.wrong for each in rows if each.asked.startswith("just")) <= 0.05 * 10_000


def test_a_size_just_below_its_target_looks_right_half_of_the_time_and_is_certified_seldom() -> None:
    files = row(0.99, 0.95, 0.5, 0.4, 0.3, 0.2)
    found = {each.asked: each for each in study("net", files, [400], 400)}
    hard = found["just above that of 0.9"]
    assert hard.target == pytest.approx(0.95025) and hard.chance <= 0.05
    assert hard.measured_wrong > 120 > 4 * hard.wrong and hard.none == 0
    assert hard.bytes == 1000 >= hard.measured_bytes
    assert hard.wrong / 400 <= hard.bound <= 0.12
    assert "| 95.03 %, just above that of 0.9 |" in show(list(found.values()))


def test_the_chance_is_that_of_the_first_size_below_the_target() -> None:
    files = row(0.99, 0.95, 0.5)
    # At least 59 of 59 for 0.95, and 0.95 has them with a chance of 0.0485.
    assert chance(files, 59, 0.95 + 1e-9) == pytest.approx(0.95**59)
    assert chance(files, 59, 0.4) == 0 and chance(files, 58, 0.96) == 0
    assert [asked for asked, _ in targets(files)][-2:] == ["just above that of 0.9", "just above that of 0.8"]


def test_the_two_rules_choose_as_the_service_does() -> None:
    values = [0.99, 0.93, 0.96]
    assert measured(values, 200, 0.95) == 2 and certified(values, 200, 0.95) == 0
    assert measured(values, 200, 0.995) is None and certified(values, 200, 0.98) is None


def test_the_bound_is_clopper_and_pearsons() -> None:
    assert upper(0, 59) == pytest.approx(1 - 0.05 ** (1 / 59), abs=1e-6)
    assert upper(50, 1000) == pytest.approx(0.06300, abs=2e-4) and upper(5, 5) == 1
