"""The path of plans that mix ranks and steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rightrank.models.emit.format import Output
from rightrank.models.errors import BudgetError, PrecisionError
from rightrank.models.plan.mixture import MIXTURE, Mixture, State
from rightrank.models.plan.planner import Plan, Planner
from tests.models.nets import Small, planner

MIXED = Output(writer=2, encoding="levels")


def state(rank: int, grid: int, size: int, loss: float) -> State:
    return State(rank, grid, 0, size, size, loss)


def test_layers_take_next_what_saves_most_for_its_bytes() -> None:
    one = [state(0, 0, 100, 0.0), state(0, 1, 50, 1.0), state(3, 1, 20, 4.0), state(2, 0, 60, 3.0)]
    other = [state(0, 1, 10, 9.0), state(0, 0, 20, 0.0)]
    mixture = Mixture.of([one, other], 7, ["a", "b"], [0.5, 0.25])
    assert [states.tolist() for states in mixture.of_layers()] == [
        [[3, 1, 0, 20], [0, 1, 0, 50], [0, 0, 0, 100]],
        [[0, 1, 0, 10], [0, 0, 0, 20]],
    ]
    assert mixture.steps.tolist() == [1, 0, 0]


def test_it_is_stored_as_it_is(tmp_path: Path) -> None:
    mixture = Mixture.of([[state(0, 0, 9, 0.0), state(4, 1, 3, 2.0)]], 3, ["a", "b"], [0.5])
    mixture.save(tmp_path)
    again = Mixture.open(tmp_path)
    for name in ("states", "counts", "steps", "finest"):
        assert np.array_equal(getattr(again, name), getattr(mixture, name))
    assert (again.fixed, again.grids) == (3, ("a", "b"))


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


def test_a_larger_file_has_nothing_coarser(mixed: Planner) -> None:
    """But for a layer that goes from a fine rank to the whole at a coarser step."""
    for count in range(1, len(mixed)):
        less, more = mixed._at(count - 1), mixed._at(count)
        changed = [
            i for i in range(len(less.ranks)) if (less.ranks[i], less.grids[i]) != (more.ranks[i], more.grids[i])
        ]
        assert len(changed) == 1


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
