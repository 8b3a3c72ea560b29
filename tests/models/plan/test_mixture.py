"""The path of plans that mix ranks and steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rightrank.models.emit.format import FIRST, Output
from rightrank.models.errors import BudgetError, PrecisionError
from rightrank.models.plan.mixture import MIXTURE, MixedPath, Mixture, State
from rightrank.models.plan.parts import parts
from rightrank.models.plan.planner import Plan, Planner
from tests.models.nets import Small, planner

MIXED = Output(writer=2, encoding="levels")


def state(rank: int, grid: int, size: int, loss: float) -> State:
    return State(rank, grid, 0, size, size, loss)


def test_layers_take_next_what_saves_most_for_its_bytes() -> None:
    one = [state(0, 0, 100, 0.0), state(0, 1, 50, 1.0), state(3, 1, 20, 4.0), state(2, 0, 60, 3.0)]
    other = [state(0, 1, 10, 9.0), state(0, 0, 20, 0.0)]
    mixture = Mixture.of([one, other], 7, ["a", "b"], [0.5, 0.25])
    assert [states.tolist() for states, _ in mixture.table.of_layers()] == [
        [[3, 1, 0, 20], [0, 1, 0, 50], [0, 0, 0, 100]],
        [[0, 1, 0, 10], [0, 0, 0, 20]],
    ]
    assert mixture.steps.tolist() == [1, 0, 0]


def test_it_is_stored_as_it_is(tmp_path: Path) -> None:
    states = [[state(0, 0, 9, 0.0), state(4, 1, 3, 2.0)]]
    for ladder in (None, [[state(1, 0, 4, 5.0), state(0, 0, 9, 0.0)]]):
        mixture = Mixture.of(states, 3, ["a", "b"], [0.5], ladder)
        mixture.save(tmp_path)
        again = Mixture.open(tmp_path)
        for one, other in ((again.table, mixture.table), (again.ladder or again.table, mixture.ladder or again.table)):
            assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
        for name in ("steps", "finest"):
            assert np.array_equal(getattr(again, name), getattr(mixture, name))
        assert (again.fixed, again.grids, again.ladder is None) == (3, ("a", "b"), ladder is None)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    _, folder, _ = planner(Small, tmp_path_factory.mktemp("mixture"), "energy", mixed=True)
    return Planner.open(folder, MIXED)


def test_a_budget_bounds_the_file_alone(mixed: Planner) -> None:
    original = mixed._original["bytes"]
    for budget in (1.0, 0.4, 0.2):
        plan = mixed.plan(budget)
        assert plan.bytes <= budget * original
        following = [each for each in mixed._path.bytes.tolist() if each > plan.bytes]
        assert plan == mixed.largest or min(following) > budget * original
    assert mixed.plan(0.4).params == mixed.template.params


def test_a_larger_file_has_more_of_one_layer_and_loses_less(mixed: Planner) -> None:
    """More bases, or finer levels; not both fewer and coarser."""
    path = mixed._path
    assert isinstance(path, MixedPath)
    for count in range(1, len(mixed)):
        less, more = mixed._at(count - 1), mixed._at(count)
        (changed,) = [
            i for i in range(len(less.ranks)) if (less.ranks[i], less.grids[i]) != (more.ranks[i], more.grids[i])
        ]
        bases = [each.ranks[changed] or 10**6 for each in (less, more)]
        assert bases[1] > bases[0] or more.grids[changed] < less.grids[changed]
        # What is said of a layer takes a few bytes more or fewer, by how it is packed.
        assert more.bytes > less.bytes - 8 and path.loses(count) < path.loses(count - 1)


@pytest.mark.parametrize("limit", ["max_macs", "max_params"])
def test_limits_of_other_kinds_than_bytes_make_nothing_coarser(mixed: Planner, limit: str) -> None:
    """Layers whose levels can be cut have the ranks that they have where numbers are as they came, at the finest
    levels; those whose cannot stay whole."""
    quantity, exact = limit.removeprefix("max_"), mixed.written_as(FIRST)
    cut = [layer.form.name != "grouped" for layer in mixed.template.decomposed]
    path = exact._path_by_macs if quantity == "macs" else exact._path_by_params
    ranks = {tuple(np.where(cut, path.ranks(count), 0).tolist()) for count in range(len(path))}
    for share in (0.9, 0.6):
        most = int(share * getattr(mixed.template, quantity))
        plan = mixed.plan(**{limit: most})
        assert plan.ranks in ranks and set(plan.grids) == {"0"} and not plan.original
        assert 0.9 * most < getattr(plan, quantity) <= most
        assert mixed.find(plan.digest) == plan
        # A limit of bytes besides changes nothing where it is met, and else makes what is within both.
        assert mixed.plan(**{limit: most, "max_bytes": plan.bytes}) == plan
        both = mixed.plan(**{limit: most, "max_bytes": plan.bytes * 3 // 4})
        assert both.bytes <= plan.bytes * 3 // 4 and getattr(both, quantity) <= most


def test_a_budget_of_macs_is_a_limit_of_them(mixed: Planner) -> None:
    assert mixed.plan(of="macs", budget=0.6) == mixed.plan(max_macs=int(0.6 * mixed.template.macs))
    assert mixed.plan(of="macs", budget=mixed.least("macs")).macs <= mixed.least("macs") * mixed.template.macs


def test_a_model_without_such_a_ladder_plans_as_it_did(mixed: Planner) -> None:
    assert mixed.mixture is not None
    before = replace(mixed.mixture, ladder=None)
    found = Planner(mixed.template, mixed._growth, mixed._importance, mixed._growth_by_macs, MIXED, before)
    assert found._path_by_macs is found._path_by_params is found._path
    assert found.plan(0.4) == mixed.plan(0.4)


def test_what_levels_take_is_known_of_every_plan(mixed: Planner) -> None:
    for plan in (mixed.plan(0.3), mixed.plan(max_macs=int(0.7 * mixed.template.macs))):
        assert all(part.bits is None or 0 < part.bits < 9 for part in parts(mixed, plan))


def test_a_plan_says_its_grids_and_is_told_apart_by_them(mixed: Planner) -> None:
    plans = [mixed._at(count) for count in range(len(mixed))]
    assert len({plan.digest for plan in plans}) == len(plans)
    assert [Plan.from_json(plan.to_json()) for plan in plans] == plans
    assert all(len(plan.grids) == len(plan.ranks) and not plan.original for plan in plans)
    assert mixed.find(plans[3].digest) == plans[3]


def test_a_limit_below_the_smallest_names_it(mixed: Planner) -> None:
    with pytest.raises(BudgetError) as refused:
        mixed.plan(max_bytes=100)
    assert refused.value.nearest == mixed.smallest.bytes
    assert mixed.plan(max_bytes=mixed.smallest.bytes) == mixed.smallest


def test_a_master_without_levels_has_no_such_files(tmp_path: Path) -> None:
    _, folder, _ = planner(Small, tmp_path, "energy", mixed=True)
    (folder / MIXTURE).unlink()
    with pytest.raises(PrecisionError, match="no levels"):
        Planner.open(folder, MIXED)
    assert Planner.open(folder).mixture is None
