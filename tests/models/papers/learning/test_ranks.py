from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rightrank.models.papers.learning import ranks

VALUES = [np.array([1.0, 0.5, 0.1]), np.array([1.0, 0.9, 0.8, 0.01])]


def test_the_least_important_bases_of_the_whole_network_go_first() -> None:
    assert ranks.keep(VALUES, 1.0) == (3, 4)
    assert ranks.keep(VALUES, 6 / 7) == (3, 3)
    assert ranks.keep(VALUES, 5 / 7) == (2, 3)
    assert ranks.keep(VALUES, 4 / 7) == (1, 3)


@given(st.floats(0.001, 1), st.floats(0.001, 1))
def test_a_larger_fraction_never_keeps_less_of_a_layer(first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert all(a <= b for a, b in zip(ranks.keep(VALUES, low), ranks.keep(VALUES, high), strict=True))


@given(st.floats(0.001, 1))
def test_what_goes_is_the_fraction_asked_for_but_never_a_layers_last_basis(fraction: float) -> None:
    kept = ranks.keep(VALUES, fraction)
    assert sum(kept) == max(2, 7 - round((1 - fraction) * 7)) and min(kept) >= 1


def test_a_basis_of_infinite_importance_stays_at_any_fraction() -> None:
    assert ranks.keep([VALUES[0], np.full(4, np.inf)], 0.01) == (1, 4)


def test_fractions_are_drawn_uniformly_from_the_range() -> None:
    torch.manual_seed(0)
    drawn = np.array([ranks.draw(0.01, 0.25) for _ in range(4000)])
    assert drawn.min() >= 0.01 and drawn.max() <= 0.25
    quarters = np.histogram(drawn, bins=4, range=(0.01, 0.25))[0]
    assert (abs(quarters - 1000) < 150).all()


@pytest.mark.parametrize("name", ["logit", "whitened", "c3"])
def test_a_criterion_that_needs_data_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="c1, c1c2"):
        ranks.rule(name)
