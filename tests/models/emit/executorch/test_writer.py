from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from rightrank.models.assemble.build import build
from rightrank.models.emit.encoding import encoding_of
from rightrank.models.emit.executorch.writer import BATCH, OF_CALL, OF_FILE, ExecuTorch, ExecuTorchWriter
from rightrank.models.emit.format import Output
from rightrank.models.emit.formats import as_planned
from rightrank.models.emit.pt2.writer import Pt2Writer
from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.master.template import Template
from rightrank.models.plan.planner import Planner
from tests.models.nets import Shared, Small, encoder, planner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planner(Small, tmp_path_factory.mktemp("executorch"))[1]


def test_whether_it_can_be_made_here_is_told_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = "executorch" in sys.modules
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "no package executorch: install rightrank with the extra `executorch`" in ExecuTorch().available()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert ExecuTorch().available() == ""
    assert ("executorch" in sys.modules) == before


@pytest.mark.parametrize("encoding", ["int8", "levels"])
def test_other_precisions_are_refused_in_words(folder: Path, encoding: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="single or half precision.*float32 or float16"):
        ExecuTorch().check(Template.open(folder), encoding_of(encoding))
    ExecuTorch().check(Template.open(folder), encoding_of("half"))


def test_a_size_without_a_bound_is_refused_but_for_the_batch(tmp_path: Path) -> None:
    _, program = encoder(tmp_path)
    build(program, tmp_path / "master", mixed=False)
    with pytest.raises(UnsupportedCheckpoint, match=r"free without a bound.*Dim\(…, max=…\)"):
        ExecuTorch().check(Template.open(tmp_path / "master"), encoding_of("plain"))


def test_what_is_said_of_sizes_is_the_pt2_files_and_some_more_with_half_of_what_matrices_take(tmp_path: Path) -> None:
    template = Template.open(planner(Shared, tmp_path)[1])
    whole, half = (ExecuTorchWriter(template, encoding_of(each)).sizes() for each in ("plain", "half"))
    bounded = ExecuTorchWriter(template, encoding_of("plain"))._template
    more = OF_FILE + OF_CALL * len(template.graph.nodes)
    assert whole.whole == Pt2Writer(bounded, encoding_of("plain")).sizes().whole + more
    assert half.whole == Pt2Writer(bounded, encoding_of("half")).sizes().whole + more


def test_a_plans_bytes_are_a_bound_for_this_format_and_exact_for_others(folder: Path) -> None:
    plan = Planner.open(folder, Output("executorch")).smallest
    assert as_planned(plan, plan.bytes) and as_planned(plan, plan.bytes - 1) and not as_planned(plan, plan.bytes + 1)
    exact = Planner.open(folder, Output("pt2")).smallest
    assert as_planned(exact, exact.bytes) and not as_planned(exact, exact.bytes - 1)


def test_the_batch_is_bounded_where_it_is_free(folder: Path) -> None:
    template = ExecuTorchWriter(Template.open(folder), encoding_of("plain"))._template
    assert [*template.graph.ranges.values()] == [(1, BATCH)]
