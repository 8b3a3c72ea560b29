"""A form is one class and one line: one with three factors and a law of its own goes all the way from outside."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rightrank.models.assemble.build import build
from rightrank.models.emit import formats
from rightrank.models.factor.factors import Factors, Moved
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.layer import Form, Layer, Shape, factor_value, inner_value
from rightrank.models.factor.metric import svd
from rightrank.models.factor.moments import Moments
from rightrank.models.improve.choose import improve
from rightrank.models.improve.distill import Recipe
from rightrank.models.measure.accuracy import measure
from rightrank.models.plan.planner import Planner
from rightrank.models.program.calls import LINEAR, Call, Linear
from rightrank.models.program.graph import Node, Ref
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent
from tests.seams.conftest import Case, added


class Threefold(Form):
    """A linear layer as three: `first` (R, m), `core` (R, R) and `last` (n, R), of r·(m + r + n) numbers at rank r."""

    name = "threefold"
    sides = ("first", "core", "last")

    def fits(self, call: Call, shape: Shape) -> str:
        return "" if isinstance(call, Linear) else "it is no linear layer"

    def positions(self, given: Shape, made: Shape, call: Call) -> tuple[int, ...]:
        count = 1
        for size in made[:-1]:
            count *= size
        return count, count, count

    def shapes(self, layer: Layer, rank: Any) -> tuple[tuple[Any, ...], ...]:
        return (rank, layer.inputs), (rank, rank), (layer.outputs, rank)

    def calls(self, layer: Layer, node: Node) -> tuple[Node, ...]:
        call = Linear.of(node)
        first, core, last = (factor_value(layer, side) for side in self.sides)
        one, two = inner_value(node), inner_value(node, 1)
        return (
            Node(one, LINEAR, (call.input, first), (), (one,)),
            Node(two, LINEAR, (Ref(one), core), (), (two,)),
            Node(node.name, LINEAR, (Ref(two), last, call.bias), (), node.outputs),
        )

    def factors(self, layer: Layer, weight: Tensor, moments: Moments | None, gradient: bool = True) -> Factors:
        pair = svd(weight)
        lengths = [each.norm(dim=1).clamp_min(1e-12) for each in (pair.down, pair.up)]
        first, last = (each / length.unsqueeze(1) for each, length in zip((pair.down, pair.up), lengths, strict=True))
        tensors = {"first": first, "core": torch.diag(lengths[0] * lengths[1]), "last": last.T}
        made = {side: each.to(weight.dtype).contiguous() for side, each in tensors.items()}
        if moments is None:
            return Factors(made, pair.sigma)
        zeros = torch.zeros(layer.rank, layer.outputs, dtype=torch.float64)
        return Factors(made, pair.sigma, Moved(lambda: (zeros, torch.ones_like(zeros))))

    def fit(
        self, layer: Layer, weight: Tensor, rank: int, normal: Tensor, mean: Tensor, moments: Moments
    ) -> dict[str, Tensor]:
        return self.factors(layer, weight, None).keep(layer, rank)

    def product(self, layer: Layer, tensors: Mapping[str, Tensor]) -> Tensor:
        return tensors["last"] @ tensors["core"] @ tensors["first"]


@pytest.fixture(autouse=True)
def threefold() -> Iterator[None]:
    with added(FORMS, {"threefold": Threefold()}, first=True):
        yield


@pytest.fixture
def folder(case: Case, tmp_path: Path) -> Path:
    described = build(
        case.program, tmp_path / "master", Samples.of(case.inputs), criterion="logit", keep=240, forms=["threefold"]
    )
    forms = {layer["name"]: layer["form"] for layer in described["layers"]}
    assert forms == {"stem": "channel", "inner": "threefold", "head": "threefold"}
    return tmp_path / "master"


def emitted(folder: Path, planner: Planner, size: float, changes: Path | None = None) -> tuple[bytes, tuple[int, ...]]:
    file, plan = io.BytesIO(), planner.plan(max_params=int(size * planner.template.params))
    formats.write(folder, plan, file, changes)
    assert len(file.getvalue()) == plan.bytes
    module = torch.jit.load(io.BytesIO(file.getvalue()))  # type: ignore[no-untyped-call]
    assert sum(parameter.numel() for parameter in module.parameters()) == plan.params
    return file.getvalue(), plan.ranks


def test_every_plan_has_the_predicted_size_and_they_are_nested(folder: Path) -> None:
    planner = Planner.open(folder)
    found = [emitted(folder, planner, share / 20)[1] for share in range(8, 21)]
    ranks = [[rank or 10**6 for rank in each] for each in found]
    assert all(a <= b for one, other in zip(ranks, ranks[1:], strict=False) for a, b in zip(one, other, strict=True))
    inner = next(layer for layer in planner.template.decomposed if layer.name == "inner")
    assert [inner.params_at(rank) for rank in (1, 2, 10)] == [305, 612, 3140]
    assert any(dict(zip(("stem", "inner", "head"), each, strict=True))["inner"] > 0 for each in found)


def test_the_file_computes_what_the_factors_make(case: Case, folder: Path) -> None:
    data, ranks = emitted(folder, Planner.open(folder), 0.5)
    assert any(ranks)
    assert b"inner_weight_core" in data
    with torch.no_grad():
        whole = torch.jit.load(io.BytesIO(emitted(folder, Planner.open(folder), 1.0)[0]))(case.inputs)  # type: ignore[no-untyped-call]
        assert torch.equal(whole, case.module(case.inputs))
        small = torch.jit.load(io.BytesIO(data))(case.inputs)  # type: ignore[no-untyped-call]
        assert 0 < float((small - whole).norm() / whole.norm()) < 1


def test_a_file_is_measured_and_a_plan_refit_and_trained(case: Case, folder: Path, tmp_path: Path) -> None:
    planner = Planner.open(folder)
    plan = planner.plan(max_params=int(0.5 * planner.template.params))
    recipe = Recipe(steps=2, students=1, rate=1e-3, batch=16)
    improve(folder, plan.ranks, tmp_path / "improved", silent, training=recipe)
    (tmp_path / "small.pt").write_bytes(emitted(folder, planner, 0.5, tmp_path / "improved")[0])
    found = measure(tmp_path / "small.pt", case.evaluation)
    assert found.metric == "top1" and found.n == 240 and found.value > 0.3
