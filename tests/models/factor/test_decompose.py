from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rightrank.models.factor.decompose import decompose
from rightrank.models.factor.factors import Factors
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.forms.spatial import Spatial
from rightrank.models.factor.layer import Layer
from rightrank.models.factor.moments import Moments
from rightrank.models.factor.patches import columns_of
from rightrank.models.plan import criteria
from rightrank.models.plan.planner import Planner
from tests.models.nets import SHAPES, Separable, build, make, planner, source


def images(count: int) -> Tensor:
    return torch.randn(count, *SHAPES[Separable]).cumsum(2).cumsum(3) / 6 + 0.5


def case(weight: Tensor) -> tuple[Layer, Moments]:
    outputs, inputs, height, width = weight.shape
    channel, both = FORMS["channel"], {"channel": (9, 9), "spatial": (9, 9)}
    layer = Layer("a", "a", "conv2d", tuple(weight.shape), ("a",), 9, True, channel, suits=both)
    flat = weight.reshape(outputs, -1).double()
    identity = torch.eye(flat.shape[1]).double()
    columns = columns_of(identity, identity[0] * 0, width)
    return layer, Moments(flat[:, 0] * 0, flat @ flat.T, torch.eye(outputs).double(), {"spatial": columns})


def test_a_layer_takes_the_form_in_which_it_is_of_low_rank() -> None:
    torch.manual_seed(0)
    separable = torch.einsum("kiy,kox->oiyx", torch.randn(3, 16, 3), torch.randn(3, 16, 3))
    channels = torch.einsum("kiyx,ko->oiyx", torch.randn(3, 16, 3, 3), torch.randn(3, 16))
    for weight, expected in ((separable, "spatial"), (channels, "channel")):
        layer, moments = case(weight)
        for known in (moments, None):
            assert decompose(layer, weight, known, FORMS)[0].form.name == expected
            for forms in ({}, {"channel": FORMS["channel"]}):
                assert decompose(layer, weight, known, forms)[0].form.name == "channel"


def test_a_layer_takes_no_form_that_does_not_suit_it() -> None:
    torch.manual_seed(0)
    separable = torch.einsum("kiy,kox->oiyx", torch.randn(3, 16, 3), torch.randn(3, 16, 3))
    layer, moments = case(separable)
    alone = replace(layer, suits={"channel": (9, 9)})
    assert decompose(alone, separable, moments, FORMS)[0] == alone


def test_factors_that_are_not_finite_are_not_taken_for_those_that_lose_least(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    separable = torch.einsum("kiy,kox->oiyx", torch.randn(3, 16, 3), torch.randn(3, 16, 3))
    layer, _ = case(separable)
    factors = Spatial.factors

    def broken(*given: Any) -> Factors:
        found = factors(*given)
        return replace(found, tensors={**found.tensors, "up": found.tensors["up"] * torch.inf})

    monkeypatch.setattr(Spatial, "factors", broken)
    assert decompose(layer, separable, None, FORMS)[0].form.name == "channel"


@pytest.mark.parametrize("criterion", [name for name, rule in criteria.CRITERIA.items() if rule.any_form])
def test_our_criteria_take_the_spatial_form_if_they_may(criterion: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = source(make(Separable), SHAPES[Separable], tmp_path / "source", images(64))
    for name, allowed in {"all": None, "both": ("spatial", "channel"), "one": ("channel",)}.items():
        build(data, tmp_path / name, criterion=criterion, forms=allowed)
        forms = {layer.form.name for layer in Planner.open(tmp_path / name).template.decomposed}
        assert forms == ({"channel"} if name == "one" else {"spatial", "channel"})


@pytest.mark.parametrize("criterion", [name for name, rule in criteria.CRITERIA.items() if not rule.any_form])
def test_the_criteria_of_others_keep_the_channel_form(criterion: str, tmp_path: Path) -> None:
    found = planner(Separable, tmp_path, criterion, images(64))[2]
    assert {layer.form.name for layer in found.template.layers} == {"channel"}
