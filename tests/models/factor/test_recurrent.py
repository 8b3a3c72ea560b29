from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from rightrank.models.factor.recurrent import Stepped, step, within
from rightrank.models.program.calls import RECURRENT, Recurrent
from rightrank.models.program.graph import Ref
from rightrank.models.simplify.recurrent import apart
from tests.models.nets import recurring

KINDS = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


class Case:
    """A call with weights of its own, and what the kernel makes of it."""

    def __init__(self, cell: str, biased: bool, batch_first: bool, projected: bool) -> None:
        torch.manual_seed(0)
        gates, made = KINDS[cell], 4 if projected else 6
        shape = (3, 5, 7) if batch_first else (5, 3, 7)
        self.values = {
            "input": torch.randn(shape),
            "weight": torch.randn(gates * 6, 7),
            "hidden": torch.randn(gates * 6, made),
            "bias": torch.randn(gates * 6) if biased else None,
            "hidden_bias": torch.randn(gates * 6) if biased else None,
            "projection": torch.randn(4, 6) if projected else None,
            "begin": torch.randn(1, 3, made),
            "inner": torch.randn(1, 3, 6),
        }
        self.values = {name: value.double() for name, value in self.values.items() if value is not None}
        state = (Ref("begin"), Ref("inner")) if cell == "lstm" else Ref("begin")
        names = {name: Ref(name) for name in self.values if name not in ("begin", "inner")}
        self.call = Recurrent(cell, state=state, batch_first=batch_first, **names)

    def value(self, wanted: Any) -> Any:
        return self.values[wanted.name] if isinstance(wanted, Ref) else None

    def kernel(self) -> tuple[Tensor, ...]:
        data, state, params, *options = self.call.args
        given = [self.value(each) for each in state] if isinstance(state, tuple) else self.value(state)
        weights = [self.value(each) for each in params]  # type: ignore[union-attr]
        return getattr(torch, self.call.cell)(self.value(data), given, weights, *options)  # type: ignore[no-any-return]

    def stepped(self) -> Stepped:
        return step(self.call, self.value)


CASES = st.builds(Case, st.sampled_from(sorted(KINDS)), st.booleans(), st.booleans(), st.just(False)) | st.builds(
    Case, st.just("lstm"), st.booleans(), st.booleans(), st.just(True)
)


@settings(max_examples=40, deadline=None)
@given(CASES)
def test_step_by_step_a_call_gives_back_what_the_kernel_does(case: Case) -> None:
    found, wanted = case.stepped().result, case.kernel()
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@settings(max_examples=40, deadline=None)
@given(CASES)
def test_each_product_is_a_linear_layer_over_all_steps_and_its_sensor_has_the_gradients(case: Case) -> None:
    weights = {
        name: case.values[name].requires_grad_() for name in ("weight", "hidden", "projection") if name in case.values
    }
    result = case.kernel()
    toward = torch.randn_like(result[0])
    wanted = torch.autograd.grad((result[0] * toward).sum(), list(weights.values()))
    case.values = {name: value.detach() for name, value in case.values.items()}
    stepped = case.stepped()
    sensors = [stepped.products[name].sensor for name in weights]
    found = torch.autograd.grad((stepped.result[0] * toward).sum(), sensors)
    assert stepped.products.keys() == weights.keys()
    for name, expected, gradient in zip(weights, wanted, found, strict=True):
        product = stepped.products[name]
        made = functional.linear(product.inputs, case.values[name], product.bias)
        torch.testing.assert_close(product.outputs, made)
        torch.testing.assert_close(gradient.flatten(0, 1).T @ product.inputs.flatten(0, 1), expected)


def test_without_gradients_none_are_asked_for() -> None:
    with torch.no_grad():
        stepped = Case("gru", True, True, False).stepped()
    assert not any(each.sensor.requires_grad for each in stepped.products.values())


@pytest.mark.parametrize(("projection", "places"), [(0, 2), (4, 3)])
def test_the_layers_within_a_call_are_found_by_their_calls(projection: int, places: int) -> None:
    graph = apart(recurring("lstm", 2, both=True, projection=projection)).graph
    found = within(graph, {node.name: node.name for node in graph.nodes})
    assert found.keys() == {node.name for node in graph.nodes if node.op in RECURRENT}
    assert all(len(each) == places and each["weight"] == name for name, each in found.items())
    assert within(graph, {}) == {}
    name, calls = next(iter(found.items()))
    assert within(graph, {calls["hidden"]: 1}) == {name: {"hidden": 1}}


def test_several_levels_are_no_single_call() -> None:
    graph = recurring("lstm", 2).graph
    (node,) = (node for node in graph.nodes if node.op in RECURRENT)
    assert Recurrent.of(node) is None and within(graph, {node.name: 0}) == {}
