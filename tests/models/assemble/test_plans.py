from __future__ import annotations

import numpy as np
import pytest

from rightrank.models.assemble.plans import rate, rule_of
from rightrank.models.errors import DataError
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.layer import Layer
from rightrank.models.plan.criteria import CRITERIA


def test_a_criterion_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(DataError, match=", ".join(CRITERIA)):
        rule_of("magic")
    assert rule_of("logit") is CRITERIA["logit"]


def test_bases_are_rated_by_what_they_cost_in_their_layers_form() -> None:
    weight = (6, 4, 3, 3)
    layers = [Layer("a", "a", "conv2d", weight, ("a",), 9, True, form) for form in FORMS.values()]
    sigmas = [np.linspace(3, 1, layer.rank) for layer in layers]
    for layer, sigma, found in zip(layers, sigmas, rate(layers, sigmas, rule_of("logit")), strict=True):
        assert found.tolist() == pytest.approx((sigma**2 / (layer.m + layer.n)).tolist())
    assert {layer.m + layer.n for layer in layers} == {36 + 6, 12 + 18}


def test_a_network_without_layers_to_cut_has_nothing_to_rate() -> None:
    assert rate([], [], rule_of("uniform")) == []
