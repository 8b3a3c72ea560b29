from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from rightrank.models.emit.format import Output
from rightrank.models.improve import polish_rounded
from rightrank.models.improve.distill import Recipe, Training
from rightrank.models.improve.made import Made
from rightrank.models.improve.rounded_student import RoundedStudent
from rightrank.models.improve.student import Student
from rightrank.models.improve.within import taken
from rightrank.models.master.master import Master
from rightrank.models.master.variant import Variant, variant
from rightrank.models.plan.planner import Planner
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent
from rightrank.models.quantise.scaled import Scaled
from tests.models.nets import SHAPES, Separable, build, make, source

RECIPE = Recipe(30, 1, 5e-3, batch=32, classes=False)


def images(count: int) -> Tensor:
    return torch.randn(count, *SHAPES[Separable]).cumsum(2)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Variant, Made]:
    """A network, a plan of its levels, and these."""
    out = tmp_path_factory.mktemp("polished")
    torch.manual_seed(0)
    build(source(make(Separable), SHAPES[Separable], out / "source", images(200)), out / "master", mixed=True)
    planner, master = Planner.open(out / "master", Output(writer=2, encoding="levels")), Master.open(out / "master")
    made = Made.of(master, planner._at(len(planner) // 4))
    stored = master.tensors()
    base = variant(dataclasses.replace(master.template, tuned=None), stored, made.plan.ranks)
    numbers = {name: made.numbers(name) for name in made.names}
    start = base.with_({n: numbers[n][""] for n in made.whole}, {n: numbers[n] for n in made.cut})
    return master.program(stored), start, made


def off(original: Program, each: Variant, x: Tensor) -> float:
    with torch.no_grad():
        return float((each.program().run((x,))[0] - original.run((x,))[0]).norm())


def test_what_was_trained_is_nearer_and_takes_no_more_bytes(cut: tuple[Program, Variant, Made]) -> None:
    original, start, made = cut
    torch.manual_seed(1)
    data, unseen = Samples.of(images(256)), images(64)
    names = made.names
    each, own = polish_rounded.polish_rounded(original, start, {}, made, data, RECIPE, silent)
    assert off(original, each, unseen) < off(original, start, unseen)
    assert sum(taken(own[name], made.levels(name)) for name in names) <= sum(made.bytes(name) for name in names)
    for name in names:
        sides = {side: scaled.numbers(torch.float32) for side, scaled in made.scaled(name, own[name]).items()}
        there = each.factors[name] if name in made.cut else {"": each.whole[name]}
        assert all(torch.equal(sides[side], there[side]) for side in sides)


def test_levels_that_do_not_fit_go_down(cut: tuple[Program, Variant, Made], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a student to whom bits are nothing."""
    original, start, made = cut
    names, downs, eager = made.names, [0.0], dataclasses.replace(RECIPE, rate=0.05)
    scaled = RoundedStudent.scaled

    def noted(student: RoundedStudent, down: float = 0.0) -> dict[str, dict[str, Scaled]]:
        downs.append(down)
        return scaled(student, down)

    monkeypatch.setattr(RoundedStudent, "loss", Student.loss)
    monkeypatch.setattr(RoundedStudent, "scaled", noted)
    torch.manual_seed(1)
    _, own = polish_rounded.polish_rounded(original, start, {}, made, Samples.of(images(256)), eager, silent)
    assert sum(taken(own[name], made.levels(name)) for name in names) <= sum(made.bytes(name) for name in names)
    assert max(downs) > 0


def test_a_deep_network_learns_at_a_lower_rate(
    cut: tuple[Program, Variant, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, start, made = cut
    rates = []

    def go(training: Training, *given: Any) -> None:
        rates.append(training.recipe.rate)

    monkeypatch.setattr(Training, "go", go)
    for deep in (1, 56):
        monkeypatch.setattr(polish_rounded, "depth", lambda template, deep=deep: deep)
        polish_rounded.polish_rounded(original, start, {}, made, Samples.of(images(64)), RECIPE, silent)
    assert rates == [RECIPE.rate, RECIPE.rate / 4]
