from __future__ import annotations

import numpy as np
import pytest

from rightrank.models.plan.criteria import CRITERIA, Spectrum, c1, c1c2, c2, energy, loss, sigma, uniform

LAYERS = [
    Spectrum(np.array([8.0, 4.0, 2.0, 1.0, 0.5, 0.2]), params=100, macs=4000, cost=np.full(6, 20)),
    Spectrum(np.array([2.0, 2.0, 1.0]), params=300, macs=1000, cost=np.full(3, 30)),
]


def test_c1_is_the_singular_value_over_the_spectral_norm() -> None:
    assert c1(LAYERS)[0].tolist() == [1, 0.5, 0.25, 0.125, 0.0625, 0.025]


def test_c2_multiplies_what_a_layer_leaves_of_parameters_and_macs() -> None:
    assert c2(LAYERS).tolist() == pytest.approx([0.75 * 0.2, 0.25 * 0.8])


def test_c1c2_is_their_product() -> None:
    assert c1c2(LAYERS)[1].tolist() == pytest.approx([0.2, 0.2, 0.1])


def test_sigma_keeps_five_bases_of_each_layer_whatever_the_budget() -> None:
    first, second = sigma(LAYERS)
    assert np.isinf(first[:5]).all() and first[5] == 0.2
    assert np.isinf(second).all()


def test_uniform_never_cuts_the_last_layer() -> None:
    first, last = uniform(LAYERS)
    assert np.isinf(last).all() and first.tolist() == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_what_bases_are_worth_is_for_each_parameter_that_they_take_themselves() -> None:
    uneven = Spectrum(np.array([4.0, 2.0, 1.0]), params=100, macs=4000, cost=np.array([10, 20, 40]))
    assert loss([uneven])[0].tolist() == pytest.approx([16 / 10, 4 / 20, 1 / 40])
    assert energy([uneven])[0].tolist() == pytest.approx([16 / 10 / 21, 4 / 20 / 21, 1 / 40 / 21])


@pytest.mark.parametrize("name", CRITERIA)
def test_importance_never_rises_within_a_layer(name: str) -> None:
    for values in CRITERIA[name].rate(LAYERS):
        assert all(a >= b for a, b in zip(values, values[1:], strict=False))
