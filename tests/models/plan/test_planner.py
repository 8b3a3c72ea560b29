from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rightrank.models.emit.format import FIRST, Output
from rightrank.models.errors import BudgetError
from rightrank.models.plan.criteria import CRITERIA
from rightrank.models.plan.planner import Plan, Planner
from tests.models.nets import Halved, Separable, Small, build, planner, source

WITHOUT_DATA = [name for name, rule in CRITERIA.items() if rule.metric == "svd"]


KINDS = [*((Small, name) for name in WITHOUT_DATA), (Halved, "c1c2"), (Halved, "energy"), (Separable, "energy")]


@pytest.fixture(scope="module", params=KINDS, ids=lambda case: f"{case[0].__name__}-{case[1]}")
def any_planner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Planner:
    kind, criterion = request.param
    return planner(kind, tmp_path_factory.mktemp("plan"), criterion)[2]


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    return planner(Halved, tmp_path_factory.mktemp("halved"))[2]


def ranks(plan: Plan, planner: Planner) -> list[int]:
    layers = planner.template.decomposed
    return [rank or layer.rank for rank, layer in zip(plan.ranks, layers, strict=True)]


@settings(max_examples=200, deadline=None)
@given(st.floats(0.0001, 1), st.floats(0.0001, 1))
def test_plans_are_nested_and_never_above_their_budget(any_planner: Planner, one: float, other: float) -> None:
    for of in ("params", "macs"):
        try:
            small, large = (any_planner.plan(b, of=of) for b in sorted((one, other)))  # type: ignore[arg-type]
        except BudgetError as error:
            assert error.nearest is not None and error.nearest > min(one, other)
            continue
        total = getattr(any_planner.template.original, of)
        assert getattr(small, of) <= min(one, other) * total
        assert getattr(large, of) <= max(one, other) * total
        if of == "params":
            whole = any_planner.plan(1.0).bytes
            assert small.bytes <= min(one, other) * whole and large.bytes <= max(one, other) * whole
        assert all(a <= b for a, b in zip(ranks(small, any_planner), ranks(large, any_planner), strict=True))


@settings(max_examples=100, deadline=None)
@given(st.floats(0.2, 1), st.sampled_from(["params", "macs"]))
def test_the_next_larger_plan_is_above_the_limit(any_planner: Planner, share: float, of: str) -> None:
    limit = int(share * getattr(any_planner.template, of))
    try:
        plan = any_planner.plan(**{f"max_{of}": limit})  # type: ignore[arg-type]
    except BudgetError:
        return
    path = any_planner._path_by_macs if of == "macs" else any_planner._path
    totals = [getattr(any_planner._at(count, path), of) for count in range(len(path))]
    # MACs can fall where a layer turns dense: it is the last plan within the limit.
    assert getattr(plan, of) <= limit
    if totals == sorted(totals):
        assert min(size for size in [*totals, limit + 1] if size > getattr(plan, of)) > limit
    assert all(size > limit for size in totals[len(totals) - totals[::-1].index(getattr(plan, of)) :])


def test_a_layer_is_never_factored_above_its_break_even(any_planner: Planner) -> None:
    for count in range(len(any_planner)):
        for rank, layer in zip(any_planner._at(count).ranks, any_planner.template.decomposed, strict=True):
            assert rank == 0 or (layer.m + layer.n) * rank < layer.params


def test_the_whole_budget_is_the_original(any_planner: Planner) -> None:
    plan = any_planner.plan(1.0)
    assert plan.original and plan.params == any_planner.template.original.params and plan.budget == 1
    assert not any(any_planner._at(count).original for count in range(len(any_planner) - 1))


def test_the_running_totals_are_the_sums_over_the_ranks(any_planner: Planner) -> None:
    template = any_planner.template
    for count in range(0, len(any_planner), 7):
        plan = any_planner._at(count)
        if plan.original and template.uploaded:
            continue
        saved = saved_macs = 0
        for rank, layer in zip(plan.ranks, template.decomposed, strict=True):
            gain = layer.params - (layer.m + layer.n) * rank if rank else 0
            first, last = layer.suits[layer.form.name]
            macs = rank * (layer.m * first + layer.n * last) if rank else layer.params * layer.positions
            saved, saved_macs = saved + gain, saved_macs + layer.params * layer.positions - macs
        assert (plan.params, plan.macs) == (template.params - saved, template.macs - saved_macs)


def test_max_bytes_is_the_size_of_the_file(any_planner: Planner) -> None:
    whole = any_planner.plan(1.0).bytes
    sizes = [any_planner._at(count).bytes for count in range(len(any_planner))]
    for limit in (whole, whole - 1, whole * 4 // 5, whole * 2 // 3, min(sizes)):
        last = max(count for count, size in enumerate(sizes) if size <= limit)
        assert any_planner.plan(max_bytes=limit) == any_planner._at(last)


def test_the_papers_criteria_have_one_order_for_both(tmp_path: Path) -> None:
    planner(Small, tmp_path, "c1c2")
    with np.load(tmp_path / "master" / "plans.npz") as file:
        assert "steps_by_macs" not in file


def test_the_smallest_budget_can_be_asked_for(any_planner: Planner) -> None:
    for of in ("params", "macs"):
        any_planner.plan(any_planner.least(of), of=of)  # type: ignore[arg-type]


def test_absolute_limits_are_kept(any_planner: Planner) -> None:
    template = any_planner.template.original
    assert any_planner.plan(max_params=template.params - 1).params < template.params
    assert any_planner.plan(max_macs=template.macs - 1).macs < template.macs


@pytest.mark.parametrize("limit", [{"budget": 1e-6}, {"max_params": 1}, {"max_macs": 1}, {"max_bytes": 1}])
def test_what_cannot_be_met_is_refused_with_the_nearest_that_can(any_planner: Planner, limit: dict[str, int]) -> None:
    with pytest.raises(BudgetError) as refused:
        any_planner.plan(**limit)  # type: ignore[arg-type]
    nearest = refused.value.nearest
    assert nearest is not None
    (key,) = limit
    any_planner.plan(**{key: nearest if key == "budget" else int(nearest)})  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", ["max_params", "max_bytes"])
def test_a_limit_above_a_million_is_named_to_the_last_digit(tmp_path: Path, limit: str) -> None:
    class Whole(nn.Linear):
        """A layer that can be cut beside numbers that cannot."""

        def __init__(self) -> None:
            super().__init__(16, 16)
            self.table = nn.Parameter(torch.zeros(1_503_011))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.table.sum()

    build(source(Whole(), (16,), tmp_path / "source"), tmp_path / "master")
    planner = Planner.open(tmp_path / "master")
    with pytest.raises(BudgetError) as refused:
        planner.plan(**{limit: 1000})  # type: ignore[arg-type]
    named = int(refused.value.hint.split()[-1].removesuffix("."))
    assert named == refused.value.nearest
    planner.plan(**{limit: named})  # type: ignore[arg-type]


def test_a_plan_survives_json_and_keeps_its_digest(any_planner: Planner) -> None:
    for plan in (any_planner.plan(0.9), any_planner.plan(1.0), any_planner.smallest):
        again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
        assert again == plan and again.digest == plan.digest and again.original == plan.original


def test_a_plan_as_another_output_is_another_and_the_first_output_is_not_mentioned(any_planner: Planner) -> None:
    for plan in (any_planner.plan(1.0), any_planner.smallest):
        assert "output" not in plan.to_json() and plan.output == FIRST
        other = replace(plan, output=Output(writer=2))
        again = Plan.from_json(json.loads(json.dumps(other.to_json())))
        assert again == other != plan and again.digest == other.digest != plan.digest


def test_every_plan_has_a_digest_of_its_own(any_planner: Planner) -> None:
    assert len({any_planner._at(count).digest for count in range(len(any_planner))}) == len(any_planner)


def test_the_digest_of_a_cut_or_of_the_original_is_that_of_its_ranks(any_planner: Planner) -> None:
    for plan in (any_planner.plan(1.0), any_planner.smallest):
        assert plan.digest == hashlib.sha256(json.dumps(plan.ranks).encode()).hexdigest()[:32]


def test_only_the_whole_budget_is_the_upload_where_zero_channels_went(halved: Planner) -> None:
    whole, reduced = halved.plan(1.0), halved._at(len(halved) - 2)
    assert reduced.reduced and not whole.reduced and reduced.digest != whole.digest
    needed = max(reduced.params / whole.params, reduced.bytes / whole.bytes)
    least = halved.least()
    assert least < needed < 1
    before = halved.smallest
    for step in range(4000):
        budget = least + 1e-9 + (1 - least - 2e-9) * step / 4000
        plan = halved.plan(budget)
        assert plan.params <= budget * whole.params and plan.bytes <= budget * whole.bytes
        assert plan.params >= before.params and not plan.original
        assert (plan == reduced) == (budget >= needed)
        assert all(a <= b for a, b in zip(ranks(before, halved), ranks(plan, halved), strict=True))
        before = plan


def test_macs_are_shares_of_the_uploads(halved: Planner) -> None:
    whole, reduced = halved.plan(1.0), halved._at(len(halved) - 2)
    assert whole.macs == halved.template.original.macs > 2 * reduced.macs
    assert halved.plan(0.99, of="macs") == reduced and halved.plan(max_macs=whole.macs) == whole
    assert halved.plan(max_macs=whole.macs - 1) == reduced == halved.plan(max_bytes=whole.bytes - 1)
    assert halved.least("macs") == pytest.approx(halved.smallest.macs / whole.macs, abs=1e-6)


def test_opening_twice_gives_the_same_plans(tmp_path: Path) -> None:
    _, folder, first = planner(Small, tmp_path)
    assert Planner.open(folder).plan(0.4) == first.plan(0.4)
