from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from rightrank.models.papers.adam_sparsity import Setting, hidden_norms, perceptron, train
from rightrank.models.simplify import zeros
from tests.models import nets

ADAM = Setting(l2=1e-3, rate=1e-2, batch=16, epochs=14)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels[:1000] / 16, dtype=torch.float32), torch.tensor(labels[:1000])


def fit(digits: tuple[Tensor, Tensor], setting: Setting) -> tuple[torch.nn.Module, list[float]]:
    torch.manual_seed(0)
    model = perceptron(64, (48,), 10, setting.activation, norm=False)
    return model, [epoch.zero for epoch in train(model, *digits, setting)]


def test_adam_with_l2_and_relu_makes_columns_zero_that_can_go(digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    model, zero = fit(digits, ADAM)
    assert zero[0] < 0.05
    assert zero[-1] > 0.1
    program = nets.read(model, (64,), tmp_path)
    smaller, report = zeros.eliminate(program)
    assert report.removed >= 0.1 * 48
    with torch.no_grad():
        before, after = program.run([digits[0]])[0], smaller.run([digits[0]])[0]
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))


def test_sgd_with_the_same_objective_makes_none(digits: tuple[Tensor, Tensor]) -> None:
    _, zero = fit(digits, Setting(optimizer="sgd", l2=1e-3, rate=0.05, batch=16, epochs=14))
    assert zero == [0.0] * 14


def test_the_same_seed_trains_the_same_network(digits: tuple[Tensor, Tensor]) -> None:
    few = Setting(epochs=1)
    (one, _), (other, _) = fit(digits, few), fit(digits, few)
    assert all(torch.equal(a, b) for a, b in zip(hidden_norms(one), hidden_norms(other), strict=True))


@pytest.mark.parametrize("norm", [False, True])
def test_hidden_norms_leave_the_last_layer_out(norm: bool) -> None:
    model = perceptron(5, (7, 6), 3, "tanh", norm=norm)
    assert [len(norms) for norms in hidden_norms(model)] == [7, 6]
