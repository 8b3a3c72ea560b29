from __future__ import annotations

import functools
import hashlib
import itertools
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def two_paths(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    """Where what is worth most per parameter is not what is per multiply-accumulate."""
    torch.manual_seed(0)
    return planner(Separable, tmp_path_factory.mktemp("paths"), "energy")[2]


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


SHARES = st.dictionaries(
    st.sampled_from(["budget", "macs", "max_params", "max_bytes", "max_macs"]), st.floats(0.05, 1.1), min_size=1
)


def limited(planner: Planner, shares: dict[str, float]) -> dict[str, Any]:
    """The limits at these shares of the whole network; `macs` is a budget of MACs, and a budget's `of` if both are."""
    whole = planner.plan(1.0)
    limits: dict[str, Any] = {}
    for name, share in shares.items():
        if name in ("budget", "macs"):
            limits |= {"budget": min(share, 1.0), "of": "params" if name == "budget" else "macs"}
        else:
            limits[name] = max(int(share * getattr(whole, name.removeprefix("max_"))), 1)
    return limits


@functools.cache
def all_steps(planner: Planner) -> list[list[Plan]]:
    paths = (planner._path, planner._path_by_macs)
    return [[planner._at(count, path) for count in range(len(path))] for path in paths]


def found(planner: Planner, limits: dict[str, Any]) -> Plan | None:
    try:
        return planner.plan(**limits)
    except BudgetError:
        return None


def kept(planner: Planner, plan: Plan, limits: dict[str, Any]) -> bool:
    """Whether a plan is within limits, told without the planner's own arithmetic of them."""
    whole = planner.plan(1.0)
    of = ("macs",) if limits.get("of") == "macs" else ("params", "bytes")
    shares = [
        getattr(plan, q) <= Fraction(repr(limits["budget"])) * getattr(whole, q) for q in of if "budget" in limits
    ]
    sizes = [getattr(plan, q) <= limits[f"max_{q}"] for q in ("params", "macs", "bytes") if f"max_{q}" in limits]
    return all(shares + sizes)


@settings(max_examples=50, deadline=None)
@given(SHARES)
def test_of_several_limits_all_hold_and_no_more_would_fit_on_its_path(
    any_planner: Planner, shares: dict[str, float]
) -> None:
    limits = limited(any_planner, shares)
    plan = found(any_planner, limits)
    steps = all_steps(any_planner)
    used = [steps[by_macs] for by_macs in (0, 1) if any((limit == "max_macs") == by_macs for limit in _kinds(limits))]
    fitting = [[step for step in path if kept(any_planner, step, limits)] for path in used]
    if plan is None:
        assert not any(fitting)
    else:
        assert kept(any_planner, plan, limits)
        assert plan in [path[-1] for path in fitting if path]


def _kinds(limits: dict[str, Any]) -> list[str]:
    """The limits by what they bound: a budget of MACs as `max_macs`."""
    names = [name for name in limits if name.startswith("max_")]
    return names + (["max_macs" if limits["of"] == "macs" else "max_params"] if "budget" in limits else [])


@settings(max_examples=50, deadline=None)
@given(SHARES, SHARES)
def test_a_limit_more_never_gives_more_of_what_it_limits(
    any_planner: Planner, shares: dict[str, float], more: dict[str, float]
) -> None:
    limits = limited(any_planner, shares)
    before = found(any_planner, limits)
    for name, value in limited(any_planner, more).items():
        if name in limits or name in ("budget", "of"):
            continue
        after = found(any_planner, limits | {name: value})
        quantity = name.removeprefix("max_")
        if before is None:
            assert after is None or any_planner._path is not any_planner._path_by_macs
        elif after is None:
            assert getattr(before, quantity) > value
        elif getattr(before, quantity) > value:
            assert getattr(after, quantity) < getattr(before, quantity)
        elif quantity == "macs" or any(kind != "max_macs" for kind in _kinds(limits)):
            assert after == before  # it holds already: nothing changes


@settings(max_examples=50, deadline=None)
@given(SHARES, st.floats(0.3, 1))
def test_with_every_limit_lower_no_rank_is_higher_on_the_same_path(
    any_planner: Planner, shares: dict[str, float], factor: float
) -> None:
    large = found(any_planner, limited(any_planner, shares))
    small = found(any_planner, limited(any_planner, {name: share * factor for name, share in shares.items()}))
    if large is None:
        assert small is None
    elif small is not None:
        paths = (any_planner._path, any_planner._path_by_macs)
        on = [{path.ranks(count) for count in range(len(path))} for path in paths]
        if any(small.ranks in each and large.ranks in each for each in on):
            assert all(a <= b for a, b in zip(ranks(small, any_planner), ranks(large, any_planner), strict=True))


def test_where_both_paths_are_stopped_the_plan_that_keeps_more_is_taken(two_paths: Planner) -> None:
    worth = {layer["layer"]: layer for layer in two_paths.importance()}
    layers = two_paths.template.decomposed

    def keeps(plan: Plan) -> float:
        total = 0.0
        for rank, layer in zip(plan.ranks, layers, strict=True):
            values = worth[layer.name]["importance"]
            for value, cost in list(zip(values, layer.params_of_basis, strict=True))[: rank or None]:
                total += (value or 0.0) * int(cost)
        return total

    paths = (two_paths._path, two_paths._path_by_macs)
    seen = set()
    for share, other in itertools.product(np.linspace(0.1, 1, 40), repeat=2):
        limits = limited(two_paths, {"max_params": float(share), "max_macs": float(other)})
        plan = found(two_paths, limits)
        if plan is None or plan in (found(two_paths, {name: limits[name]}) for name in limits):
            continue  # refused, or one limit changes nothing
        last = [np.flatnonzero((p.params <= limits["max_params"]) & (p.macs <= limits["max_macs"]))[-1] for p in paths]
        candidates = [two_paths._at(int(count), path) for count, path in zip(last, paths, strict=True)]
        assert plan in candidates and keeps(plan) == pytest.approx(max(map(keeps, candidates)))
        seen.add(candidates.index(plan))
    assert seen == {0, 1}


@pytest.mark.parametrize("first", [{"budget": 0.9}, {"max_params": 10**9}, {"max_bytes": 10**9}])
def test_of_several_limits_the_one_that_fails_is_named_with_the_nearest_it_can_be(
    two_paths: Planner, first: dict[str, Any]
) -> None:
    with pytest.raises(BudgetError) as refused:
        two_paths.plan(**first, max_macs=1)
    assert refused.value.limit == "max_macs" and "`max_macs=1` is below" in refused.value.detail
    assert refused.value.nearest is not None
    two_paths.plan(**first, max_macs=int(refused.value.nearest))
    with pytest.raises(BudgetError):
        two_paths.plan(**first, max_macs=int(refused.value.nearest) - 1)


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


def test_a_plan_of_either_path_is_found_by_its_digest_and_looking_again_looks_at_no_plan(
    two_paths: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = [
        two_paths.plan(0.4),
        two_paths.plan(max_macs=int(0.4 * two_paths.template.original.macs)),
        two_paths.plan(1),
    ]
    assert [two_paths.find(plan.digest) for plan in plans] == plans
    monkeypatch.setattr(Planner, "_at", lambda *_: pytest.fail("it looked at a plan"))
    assert two_paths.find("0" * 32) is None


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
