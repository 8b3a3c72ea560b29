from __future__ import annotations

import pytest

from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.layer import Layer

CASES = [("channel", (8, 6)), ("channel", (8, 4, 3, 3)), ("spatial", (8, 4, 3, 3)), ("channel", (1, 9))]
CASES += [("grouped", (8, 4, 3, 3)), ("grouped", (2, 1, 3, 3)), ("transposed", (8, 4, 3, 3))]


def layer_of(form: str, shape: tuple[int, ...]) -> Layer:
    groups, suits = 2 if form == "grouped" else 1, {"spatial": (72, 36)}
    return Layer("a", "a", "conv2d", shape, ("a",), 36, True, FORMS[form], suits=suits, groups=groups)


@pytest.mark.parametrize(("form", "shape"), CASES)
def test_what_bases_cost_adds_up_to_what_a_rank_costs(form: str, shape: tuple[int, ...]) -> None:
    layer = layer_of(form, shape)
    first = 72 if form == "spatial" else 36
    for rank in range(1, layer.rank + 1):
        assert layer.params_at(rank) == rank * (layer.m + layer.n) == layer.params_of_basis[:rank].sum()
        assert layer.macs_by_rank[rank - 1] == rank * (layer.m * first + layer.n * 36)
        assert layer.macs_by_rank[rank - 1] == layer.macs_of_basis[:rank].sum()
    assert layer.params_at(0) == layer.params and layer.macs == layer.params * 36


@pytest.mark.parametrize(("form", "shape"), CASES)
def test_break_even_is_the_largest_rank_that_saves_parameters(form: str, shape: tuple[int, ...]) -> None:
    layer = layer_of(form, shape)
    saving = [rank for rank in range(1, layer.rank + 1) if layer.params_at(rank) < layer.params]
    assert saving == [*range(1, layer.break_even + 1)]


def test_a_layer_without_outputs_has_no_bases() -> None:
    layer = Layer("a", "a", "linear", (0, 16), ("a",), 1, False, FORMS["channel"])
    assert (layer.rank, layer.break_even, layer.params) == (0, 0, 0)
