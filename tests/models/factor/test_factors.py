from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rightrank.models.factor.factors import Factors, axis_of_bases, by_basis, in_call
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.layer import Layer

SHAPES = [
    ("channel", (6, 6)), ("channel", (5, 3, 4)), ("channel", (8, 2, 2, 2)), ("spatial", (6, 4, 3, 2)),
    ("grouped", (6, 6, 1)), ("grouped", (6, 4, 3, 2)), ("transposed", (6, 4, 3, 2)), ("transposed", (5, 5, 1)),
]  # fmt: skip
# Along which axis of `down` and of `up` the bases lie.
AXES = {"channel": (0, 1), "spatial": (0, 1), "grouped": (1, 1), "transposed": (0, 0)}


def layer_of(form: str, shape: tuple[int, ...]) -> Layer:
    return Layer("a", "a", "conv2d", shape, ("a",), 1, True, FORMS[form], groups=3 if form == "grouped" else 1)


@pytest.mark.parametrize(("form", "shape"), SHAPES)
def test_in_a_call_is_the_inverse_of_by_basis(form: str, shape: tuple[int, ...]) -> None:
    layer = layer_of(form, shape)
    for rank in (1, 2, layer.rank):
        for side, wanted in layer.factor_shapes(rank).items():
            factor = torch.randn(wanted)
            rows = by_basis(layer, side, factor)
            assert rows.shape == (rank, layer.m if side == "down" else layer.n) and rows.is_contiguous()
            assert torch.equal(in_call(layer, side, rows), factor)


@pytest.mark.parametrize(("form", "shape"), SHAPES)
def test_a_row_is_one_basis_alone(form: str, shape: tuple[int, ...]) -> None:
    """Also where as many bases as outputs make both axes of `up` alike."""
    layer = layer_of(form, shape)
    factors = {side: torch.randn(each) for side, each in layer.factor_shapes(layer.rank).items()}
    for side, axis in zip(("down", "up"), AXES[form], strict=True):
        assert torch.equal(by_basis(layer, side, factors[side])[1], factors[side].select(axis, 1).flatten())


def test_a_factor_whose_bases_lie_along_two_axes_has_no_rows() -> None:
    layer: Any = SimpleNamespace(factor_shapes=lambda rank: {"core": (rank, rank, 3)})
    layer.axis_of_bases = lambda side: Layer.axis_of_bases(layer, side)
    core = torch.randn(4, 4, 3)
    assert axis_of_bases(layer, "core") is None
    assert by_basis(layer, "core", core) is core and in_call(layer, "core", core) is core


def test_fewer_bases_are_the_leading_part_along_every_axis() -> None:
    layer: Any = SimpleNamespace(factor_shapes=lambda rank: {"down": (rank, 2), "core": (rank, rank + 1)})
    layer.axis_of_bases = lambda side: Layer.axis_of_bases(layer, side)
    factors = Factors({"down": torch.randn(3, 2), "core": torch.randn(3, 4)}, torch.ones(3))
    kept = factors.keep(layer, 2)
    assert torch.equal(kept["down"], factors.tensors["down"][:2])
    assert torch.equal(kept["core"], factors.tensors["core"][:2, :3]) and kept["core"].is_contiguous()
