"""A file's bytes divided over layers that have options."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rightrank.models.plan.mix import Options, allocate


def options(*pairs: tuple[float, float]) -> Options:
    return Options(*np.array(pairs, dtype=float).T)


def drawn(seed: int, layers: int, several: int) -> list[Options]:
    random = np.random.default_rng(seed)
    return [Options(random.integers(1, 50, several).astype(float), random.random(several)) for _ in range(layers)]


def test_what_is_dearer_and_no_better_is_off_the_hull() -> None:
    given = options((10, 1.0), (20, 0.9), (30, 0.1), (40, 0.2), (50, 0.0), (10, 0.9))
    assert given.hull.tolist() == [5, 2, 4]
    assert given.gains.tolist() == pytest.approx([0.04, 0.005])


def test_of_equal_options_the_first_counts() -> None:
    assert options((10, 1.0), (20, 0.5), (20, 0.5)).hull.tolist() == [0, 1]


def test_a_single_option_has_no_steps() -> None:
    path = allocate([options((10, 1.0)), options((5, 2.0))])
    assert (len(path), path.bytes.tolist(), path.loss.tolist()) == (1, [15.0], [3.0])
    assert path.chosen(0).tolist() == [0, 0]


def test_without_layers_there_is_one_mix_of_nothing() -> None:
    path = allocate([])
    assert (len(path), path.bytes.tolist(), path.chosen(0).tolist()) == (1, [0.0], [])


@pytest.mark.parametrize("seed", range(5))
def test_every_mix_is_the_best_at_its_bytes(seed: int) -> None:
    layers = drawn(seed, 4, 5)
    path = allocate(layers)
    every = [
        (
            sum(x.bytes[i] for x, i in zip(layers, each, strict=True)),
            sum(x.loss[i] for x, i in zip(layers, each, strict=True)),
        )
        for each in itertools.product(range(5), repeat=4)
    ]
    for count in range(len(path)):
        best = min(loss for size, loss in every if size <= path.bytes[count])
        assert path.loss[count] == pytest.approx(best)


@pytest.mark.parametrize("seed", range(5))
def test_totals_are_those_of_what_was_chosen_and_grow_with_the_bytes(seed: int) -> None:
    layers = drawn(seed, 6, 8)
    path = allocate(layers)
    for count in range(len(path)):
        chosen = path.chosen(count)
        assert path.bytes[count] == sum(x.bytes[i] for x, i in zip(layers, chosen, strict=True))
        assert path.loss[count] == pytest.approx(sum(x.loss[i] for x, i in zip(layers, chosen, strict=True)))
    assert (np.diff(path.bytes) > 0).all()
    assert (np.diff(path.loss) < 0).all()


def test_the_largest_mix_within_a_limit() -> None:
    path = allocate([options((10, 1.0), (20, 0.5), (40, 0.4)), options((10, 1.0), (15, 0.0))])
    assert path.bytes.tolist() == [20, 25, 35, 55]
    assert [path.largest(limit) for limit in (19, 20, 30, 1000)] == [None, 0, 1, 3]
    assert path.chosen(1).tolist() == [0, 1]
