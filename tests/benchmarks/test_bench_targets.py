"""`make bench-…` at their smallest: that each measures what it says and takes up what it has."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from benchmarks import latency, layers, learning, sparsity

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "results"
Record: TypeAlias = dict[str, str]


def bench(name: str, *arguments: str) -> str:
    """What a quick run prints; what the repository keeps must not change by it."""
    before = {path: path.stat().st_mtime_ns for path in KEPT.iterdir()}
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in KEPT.iterdir()} == before
    return done.stdout


def read(path: Path) -> list[Record]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def groups(rows: list[Record], key: Callable[[Record], str]) -> dict[str, list[Record]]:
    return {name: [row for row in rows if key(row) == name] for name in dict.fromkeys(map(key, rows))}


def test_quick_runs_without_a_folder_keep_nothing() -> None:
    """The one run of these without `--results`: the same way, through a folder that is thrown away."""
    assert "frozen ms" in bench("latency", "--rounds", "1")


@pytest.fixture(scope="module")
def latencies(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a whole run prints, and its folder."""
    folder = tmp_path_factory.mktemp("latency")
    return bench("latency", "--rounds", "1", "--results", str(folder)), folder


def test_latency_has_every_budget_and_never_more_work_than_the_original(latencies: tuple[str, Path]) -> None:
    printed, folder = latencies
    rows = read(folder / "latency.csv")
    found = groups(rows, lambda row: row["network"])
    assert list(found) == list(latency.QUICK)
    for name, sizes in found.items():
        assert [float(row["budget"]) for row in sizes] == list(latency.BUDGETS) and name in printed
        first = sizes[0]
        for row in sizes:
            assert int(row["params"]) <= float(row["budget"]) * int(first["params"])
            assert int(row["macs"]) <= int(first["macs"]) and int(row["memory"]) <= int(first["memory"])
            # All that a model does happens between its tensors and at least its input.
            assert int(row["memory"]) > int(row["tensors"]) >= 4 * int(row["params"])
            for time, ratio in (("ms", "faster"), ("frozen_ms", "frozen_faster")):
                assert float(row[ratio]) == pytest.approx(float(first[time]) / float(row[time]), rel=0.02)
        assert float(first["faster"]) == float(first["frozen_faster"]) == 1
    assert (folder / "latency.svg").exists()


def test_latency_says_in_words_where_a_cut_is_not_faster(capsys: pytest.CaptureFixture[str]) -> None:
    original = latency.Row("net", 1.0, 10, 100, 1.0, 1.0, 1.0, 1.0, 1.0, 40, 50, 1)
    cut = latency.Row("net", 0.5, 5, 50, 0.5, 2.0, 0.5, 1.0, 1.0, 20, 30, 1)
    latency.show([original, cut])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("SLOWER than the original; frozen: not faster than the original")
    assert latency.verdict(1.2) == "faster" and latency.verdict(1.01) == "not faster than the original"


def test_a_taken_up_latency_measures_only_what_is_missing(latencies: tuple[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "latency.csv"
    shutil.copytree(latencies[1], tmp_path, dirs_exist_ok=True)
    whole = path.read_text()
    bench("latency", "--rounds", "1", "--results", str(tmp_path))
    assert path.read_text() == whole
    # As if stopped before the second network.
    kept = whole.splitlines(keepends=True)[: 1 + len(latency.BUDGETS)]
    path.write_text("".join(kept))
    bench("latency", "--rounds", "1", "--results", str(tmp_path))
    taken_up = path.read_text().splitlines(keepends=True)
    assert taken_up[: len(kept)] == kept and len(taken_up) == len(whole.splitlines())


def test_cost_gives_each_work_in_seconds_and_in_forward_passes(tmp_path: Path) -> None:
    printed = bench("cost", "--steps", "1", "--results", str(tmp_path))
    rows = {row["work"]: row for row in read(tmp_path / "cost.csv")}
    assert {"forward", "statistics", "decompose", "ranges", "refit", "tune, a step"} <= set(rows)
    forward = float(rows["forward"]["seconds"])
    for work, row in rows.items():
        assert work in printed and f"{row['inputs']} random calibration inputs" in printed
        assert float(row["seconds"]) > 0
        assert float(row["forwards"]) == pytest.approx(float(row["seconds"]) / forward, rel=0.02)
    step, steps = rows["tune, a step"], rows["tune, 600 steps"]
    assert float(steps["seconds"]) == pytest.approx(600 * float(step["seconds"]), rel=0.02)
    assert step["measured"] == "True" and steps["measured"] == "False"
    bench("cost", "--steps", "1", "--results", str(tmp_path))
    assert {row["work"]: row for row in read(tmp_path / "cost.csv")} == rows


def test_ingest_gives_each_work_and_its_memory_and_a_layer_beside_an_svd(tmp_path: Path) -> None:
    printed = bench("ingest", "--results", str(tmp_path))
    rows = {(row["network"], row["work"]): row for row in read(tmp_path / "ingest.csv")}
    works = [work for network, work in rows if network == "convolutions"]
    assert works == ["read", "statistics", "decompose", "levels", "ranges", "all"]
    parts = [float(rows["convolutions", work]["core_seconds"]) for work in works]
    assert min(parts) > 0 and sum(parts[:-1]) == pytest.approx(parts[-1], rel=0.02)
    assert int(rows["convolutions", "all"]["mib"]) > 100
    assert all(float(rows["linear 8→200", work]["seconds"]) > 0 for work in ("decompose", "LAPACK's SVD"))
    assert all(name in printed for name in ("convolutions", "linear 8→200"))


def test_sparsity_shows_zeros_under_the_three_conditions_only(tmp_path: Path) -> None:
    bench("sparsity", "--results", str(tmp_path))
    rows = read(tmp_path / "sparsity.csv")
    found = groups(rows, lambda row: row["network"])
    assert list(found) == ["perceptron", "convolutional"]
    for runs in found.values():
        effect, *controls = runs
        assert effect["run"] == "Adam, L2, ReLU" and len(controls) == 4
        assert float(effect["zero"]) > 0 and int(effect["params_after"]) < int(effect["params_before"])
        for control in controls:
            assert float(control["zero"]) == 0 and control["params_after"] == control["params_before"]
        for row in runs:
            assert row["accuracy_before"] == row["accuracy_after"] and float(row["accuracy_after"]) > 0.8
            assert float(row["difference"]) < 1e-5 and not row["rejected"]
    epochs = read(tmp_path / "sparsity-epochs.csv")
    assert len(epochs) == sparsity.QUICK_EPOCHS * len(rows)
    for row in rows:
        mine = [e for e in epochs if (e["network"], e["run"]) == (row["network"], row["run"])]
        assert [int(e["epoch"]) for e in mine] == list(range(1, sparsity.QUICK_EPOCHS + 1))
        assert mine[-1]["zero"] == row["zero"]
    assert (tmp_path / "sparsity.svg").exists()
    # Stopped within the last training: its epochs are there in part, the row is not.
    for name, missing in (("sparsity.csv", 1), ("sparsity-epochs.csv", 3)):
        path = tmp_path / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-missing]))
    bench("sparsity", "--results", str(tmp_path))
    again = read(tmp_path / "sparsity.csv")
    assert again[:-1] == rows[:-1] and {**again[-1], "seconds": ""} == {**rows[-1], "seconds": ""}
    assert read(tmp_path / "sparsity-epochs.csv") == epochs


def test_learning_has_every_training_criterion_and_budget(tmp_path: Path) -> None:
    few = ("--epochs", "1", "--images", "512")
    printed = bench("learning", *few, "--results", str(tmp_path))
    path = tmp_path / "learning.csv"
    rows = read(path)
    found = groups(rows, lambda row: row["training"])
    assert list(found) == list(learning.TRAININGS)
    for name, mine in found.items():
        assert {row["epochs"] for row in mine} == {str(learning.TRAININGS[name])}
        kinds = groups(mine, lambda row: f"{row['criterion']}, {row['bn']}")
        assert list(kinds) == ["c1, stored", "c1, recomputed", "logit, relative"]
        for sizes in kinds.values():
            assert sorted((float(row["budget"]) for row in sizes), reverse=True) == list(learning.BUDGETS)
            assert all(float(row["params_share"]) <= 1 and float(row["macs_share"]) <= 1 for row in sizes)
            assert all(0 <= float(row["accuracy"]) <= 1 and row["n"] == "500" for row in sizes)
    assert "VGG-15 of width 4 (paper: 64)" in printed and (tmp_path / "learning-vgg-15-digits-1-epochs.svg").exists()
    whole = path.read_text()
    # Stopped while the rows of the last training were written.
    path.write_text("".join(whole.splitlines(keepends=True)[:-2]))
    bench("learning", *few, "--results", str(tmp_path))
    assert path.read_text() == whole


def test_files_of_each_format_are_made_run_and_compared(tmp_path: Path) -> None:
    printed = bench("formats", "--results", str(tmp_path))
    rows = read(tmp_path / "formats.csv")
    assert {(row["format"], row["precision"]) for row in rows} >= {
        (format, precision) for format in ("torchscript", "onnx", "pt2") for precision in ("float32", "float16", "int8")
    }
    for row in rows:
        # Of random weights, in which next to nothing tells classes apart, values in eight bits and weights in
        # four change more.
        apart = {"int4": (0.4, 1), "w8a8": (0.85, 0.5), "float16": (0.95, 0.05)}
        agreement, difference = apart.get(row["precision"], (1, 0.05))
        assert not row["refused"] and float(row["agreement"]) >= agreement and float(row["difference"]) < difference
        assert int(row["bytes"]) > 0 and float(row["ms"]) > 0 and int(row["memory"]) > 0
    assert (tmp_path / "formats.md").read_text() in printed
    before = (tmp_path / "formats.csv").read_bytes()
    bench("formats", "--results", str(tmp_path))
    assert (tmp_path / "formats.csv").read_bytes() == before


def test_the_engine_does_what_it_was_chosen_for() -> None:
    printed = bench("engine")
    for found in ("0 out of order", "1 start", "all begun", "the worker free", "begun after"):
        assert found in printed


def test_networks_of_other_layers_are_trained_cut_and_measured(tmp_path: Path) -> None:
    arguments = ("--networks", "embeddings", "--methods", "cut,whitened", "--results", str(tmp_path))
    bench("layers", *arguments)
    rows = read(tmp_path / "layers.csv")
    assert len(rows) == 2 * len(layers.BUDGETS)
    for row in rows:
        assert float(row["reached"]) <= max(float(row["budget"]), float(row["least"]))
        assert 0 <= float(row["value"]) <= 1 and (float(row["budget"]) < 1 or row["value"] == row["original"])
    page = (tmp_path / "layers.md").read_text()
    assert "**embeddings**" in page and "whitened" in page
    before = (tmp_path / "layers.csv").read_bytes()
    bench("layers", *arguments)
    assert (tmp_path / "layers.csv").read_bytes() == before
