from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.assemble import build as assemble
from rightrank.models.errors import DataError
from rightrank.models.factor.factors import leading
from rightrank.models.improve.distill import Recipe, Training
from rightrank.models.improve.student import Lesson, Student
from rightrank.models.master.master import Master
from rightrank.models.master.variant import all_factors
from rightrank.models.measure.nearness import Nearness
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from tests.models.nets import SHAPES, Small, build, make, recurring, source

PLAIN = Nearness(classes=False)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("student")
    torch.manual_seed(0)
    build(source(make(Small), SHAPES[Small], out / "source", images(200)), out / "master")
    return out / "master"


def images(count: int) -> Tensor:
    return torch.randn(count, *SHAPES[Small]).cumsum(2) / 3


def student_of(folder: Path) -> Student:
    master = Master.open(folder)
    stored = master.tensors()
    return Student(master.template, master.program(stored), all_factors(master.template, stored), CPU)


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(12, 9, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.only(x)


def test_a_student_of_nothing_but_factors_learns_by_muon_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 12)
    build(source(make(Bare), (12,), tmp_path / "source", x), tmp_path / "master")
    training = Training(student_of(tmp_path / "master"), Recipe(2, 1, 1e-3, batch=32, classes=False))
    training.go(Samples.of(x), 32, lambda generator: ({"only.weight": 2}, 0.3), lambda done: None)
    assert training.done == 2 and len(training.optimizers) == 1


def ignore(node: object, arguments: list[Any], result: Any) -> Any:
    return result


def test_at_full_size_nothing_is_left_to_learn(folder: Path) -> None:
    student = student_of(folder)
    lesson = student.teach((images(64),), layers=True)
    assert lesson.layers.keys() == student.watched
    assert student.loss(None, lesson, PLAIN, hint=5.0).item() < 1e-6


@pytest.mark.parametrize("rank", [1, 3, 1000])
def test_with_the_statistics_stored_a_program_does_what_was_learnt(folder: Path, rank: int) -> None:
    """Layers as two factors or as their product, batch norms on the batch's moments or on stored ones."""
    student = student_of(folder)
    ranks = {layer.weight: min(rank, layer.rank) for layer in student.factored}
    lesson = student.teach((images(64),))
    with torch.no_grad():
        learnt = student.run(ranks, lesson, ignore)[0]
        program = student.program(ranks)
        program = program.with_tensors({**program.tensors, **student.statistics(ranks, [lesson])})
        stored = program.run(lesson.inputs)[0]
    torch.testing.assert_close(stored, learnt, rtol=1e-3, atol=1e-4)


def test_what_layers_put_out_counts_as_much_as_the_hint_says(folder: Path) -> None:
    student = student_of(folder)
    ranks = {layer.weight: 1 for layer in student.factored}
    lesson = student.teach((images(64),), layers=True)
    losses = [student.loss(ranks, lesson, PLAIN, hint=hint).item() for hint in (0.0, 1.0, 3.0)]
    assert 0 < losses[0] < losses[1]
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-3)
    without = replace(lesson, layers={})
    assert student.loss(ranks, without, PLAIN, hint=3.0).item() == pytest.approx(losses[0])


def test_a_layer_that_always_puts_out_the_same_gives_no_hint(folder: Path) -> None:
    student = student_of(folder)
    name = next(iter(student.factored)).weight
    tensors = student.original.tensors
    student.original = Program(student.graph, {**tensors, name: torch.zeros_like(tensors[name])})
    lesson: Lesson = student.teach((images(64),), layers=True)
    assert len(lesson.layers) < len(student.watched)


def test_steps_and_seconds_bound_a_training(folder: Path) -> None:
    seen: list[int] = []
    recipe = Recipe(steps=3, students=1, rate=1e-3, batch=32, classes=False)
    training = Training(student_of(folder), recipe)
    training.go(Samples.of(images(100)), 32, lambda generator: (None, 1.0), seen.append)
    assert seen == [0, 1, 2] and training.done == 3 and training.spent > 0
    late = Training(student_of(folder), replace(recipe, steps=10**6, seconds=0.2))
    late.go(Samples.of(images(100)), 32, lambda generator: (None, 1.0), seen.append)
    assert 0 < late.done < 10**6


def test_a_settled_student_learns_with_the_statistics_it_came_with(folder: Path) -> None:
    master = Master.open(folder)
    template, stored = master.template, master.tensors()
    whole = all_factors(template, stored)
    factors = {
        layer.weight: {
            side: leading(whole[layer.weight][side], shape) for side, shape in layer.factor_shapes(2).items()
        }
        for layer in template.decomposed
    }
    student = Student(template, master.program(stored), factors, CPU, settled=True)
    lesson = student.teach((images(64),))
    with torch.no_grad():
        learnt = student.run(None, lesson, ignore)[0]
        torch.testing.assert_close(student.program().run(lesson.inputs)[0], learnt)
        before = student.loss(None, lesson, PLAIN, hint=0.0).item()
    start = {key: value.clone() for key, value in student.learnt().items()}
    Training(student, Recipe(steps=40, students=1, rate=3e-3, batch=32, classes=False)).go(
        Samples.of(images(200)), 32, lambda generator: (None, 0.3), lambda done: None
    )
    assert student.loss(None, lesson, PLAIN, hint=0.0).item() < before
    assert all(not torch.equal(start[key], student.learnt()[key]) for key in start)


class Unit(nn.Module):
    """At an input that is all zeros the first output's gradient is no number, and the second is none itself."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.first, self.last, self.eps = nn.Linear(6, 5, bias=False), nn.Linear(5, 3), eps

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y / (y.square().sum(1, keepdim=True).sqrt() + self.eps))


@pytest.mark.parametrize(("eps", "dropped"), [(1e-6, False), (0.0, True)])
def test_an_input_that_nothing_can_be_learnt_from_does_not_ruin_the_rest(
    eps: float, dropped: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    bad = torch.cat([x, torch.zeros(1, 6)])
    build(source(Unit(eps), (6,), tmp_path / "source", x), tmp_path / "master")
    student = student_of(tmp_path / "master")
    ranks = {layer.weight: 2 for layer in student.factored}
    before = {key: value.clone() for key, value in student.learnt().items()}
    training = Training(student, Recipe(1, 1, 1e-2, classes=False))
    training.go(Samples.of(torch.zeros(8, 6)), 8, lambda generator: (ranks, 0.3), lambda done: None)
    assert training.done == 1 and all(torch.equal(before[key], value) for key, value in student.learnt().items())
    training = Training(student, Recipe(30, 1, 1e-2, classes=False))
    training.go(Samples.of(bad), 8, lambda generator: (ranks, 0.3), lambda done: None)
    learnt = student.learnt()
    assert all(bool(value.isfinite().all()) for value in learnt.values())
    assert not all(torch.equal(before[key], learnt[key]) for key in learnt)
    assert len(student.answered(Samples.of(bad), 5, classes=False)) == (64 if dropped else 65)


def test_inputs_without_answers_are_refused_in_words(tmp_path: Path) -> None:
    x = torch.randn(64, 6)
    build(source(Unit(0.0), (6,), tmp_path / "source", x), tmp_path / "master")
    with pytest.raises(DataError, match="numbers for 7 of 16"):
        student_of(tmp_path / "master").answered(Samples.of(torch.cat([x[:7], torch.zeros(9, 6)])), 8, classes=False)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_every_factor_of_a_recurrent_network_learns(cell: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, program = torch.randn(128, 7, 9), recurring(cell, both=True)
    program = Program(program.graph.replace(outputs=("made",)).live(), program.tensors)
    assemble.build(program, tmp_path / "master", Samples.of(x), criterion="logit")
    student = student_of(tmp_path / "master")
    lesson = student.teach((x[:32],), layers=True)
    assert lesson.layers.keys() == student.watched and len(student.watched) == 2
    assert student.loss(None, lesson, PLAIN, hint=5.0).item() < 1e-6
    ranks = {layer.weight: 2 for layer in student.factored}
    before = student.loss(ranks, lesson, PLAIN, hint=5.0)
    before.backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None and float(value.grad.norm()) > 0 for value in student.parameters.values())
    training = Training(student, Recipe(6, 1, 1e-2, batch=32, classes=False))
    training.go(Samples.of(x), 32, lambda generator: (ranks, 0.3), lambda done: None)
    assert student.loss(ranks, lesson, PLAIN, hint=5.0).item() < 0.95 * before.item()
