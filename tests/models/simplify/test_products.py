from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rightrank.models import checkpoint
from rightrank.models.assemble.survey import survey
from rightrank.models.program.calls import LINEAR, PRODUCT
from rightrank.models.program.program import Program
from rightrank.models.simplify.products import products
from rightrank.models.simplify.simplify import simplify

# torch's own of run_decompositions.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")


def program(module: nn.Module, example: Tensor, folder: Path, decomposed: bool = True) -> Program:
    """Of an export with a free batch, in calls of the core set if `decomposed`."""
    torch.manual_seed(0)
    export = torch.export.export(module.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(export.run_decompositions() if decomposed else export, folder / "model.pt2")
    return checkpoint.read(folder / "model.pt2")


def calls(found: Program) -> list[str]:
    return [node.op for node in found.graph.nodes if node.op in (LINEAR, PRODUCT) or "mm" in node.op]


def same(one: Program, other: Program, x: Tensor) -> None:
    torch.testing.assert_close(other.run([x]), one.run([x]))


class Turned(nn.Module):
    """A linear layer on an input whose last two dimensions are swapped, which is decomposed to a bmm."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 10, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(1, 2))


@pytest.mark.parametrize("bias", [True, False])
def test_a_bmm_with_a_repeated_weight_is_the_linear_layer_that_it_came_from(bias: bool, tmp_path: Path) -> None:
    given, x = program(Turned(bias), torch.randn(2, 6, 5), tmp_path), torch.randn(3, 6, 5)
    found = products(given)
    assert (calls(given), calls(found)) == (["aten.bmm.default"], [LINEAR])
    linear = next(node for node in found.graph.nodes if node.op == LINEAR)
    assert (linear.args[2] is not None) == bias and "aten.add.Tensor" not in [node.op for node in found.graph.nodes]
    same(given, found, x)
    assert [layer.name for layer in survey(simplify(given).program).decomposed] == ["inner"]


class Repeated(nn.Module):
    """A bmm with a stored matrix that is not transposed, and a sum that is no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.extra = nn.Parameter(torch.randn(6, 10)), nn.Parameter(torch.randn(5, 10))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.weight.expand(x.shape[0], 6, 10)) + self.extra


def test_a_bmm_with_the_matrix_itself_is_a_product(tmp_path: Path) -> None:
    given, x = program(Repeated(), torch.randn(2, 5, 6), tmp_path), torch.randn(3, 5, 6)
    found = products(given)
    assert calls(found) == [PRODUCT]
    same(given, found, x)
    stored = simplify(given).program
    assert calls(stored) == [LINEAR] and survey(stored).decomposed
    same(given, stored, x)


class Autoencoder(nn.Module):
    """In by Wᵀ and out by W."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(20, 8))
        self.bias = nn.Parameter(torch.randn(8)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(torch.tanh(functional.linear(x, self.weight.t(), self.bias)), self.weight)


@pytest.mark.parametrize("decomposed", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_matrix_that_is_read_both_ways_is_stored_once(bias: bool, decomposed: bool, tmp_path: Path) -> None:
    given, x = program(Autoencoder(bias), torch.randn(2, 20), tmp_path, decomposed), torch.randn(3, 20)
    found = simplify(given).program
    assert sorted(calls(found)) == [LINEAR, PRODUCT]
    (layer,) = survey(found).decomposed
    assert (layer.name, len(layer.calls), found.parameters) == ("weight", 2, given.parameters)
    same(given, found, x)


class Square(nn.Module):
    """Its matrix is square: nothing but the calls tells which way round it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, 7))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(torch.bmm(x, self.weight.t().expand(x.shape[0], 7, 7)))
        return torch.bmm(x, self.weight.unsqueeze(0).expand(x.shape[0], 7, 7))


def test_a_square_matrix_is_read_the_right_way_round(tmp_path: Path) -> None:
    given, x = program(Square(), torch.randn(2, 7, 7), tmp_path), torch.randn(3, 7, 7)
    found = products(given)
    assert sorted(calls(found)) == [LINEAR, PRODUCT]
    same(given, found, x)


class Otherwise(nn.Module):
    """Products that are none of a stored matrix as it is: of slices of it, of its rows in another order, of one for
    each sample, and one whose matrix is the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.each = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        sliced = torch.bmm(x[:, :, :3], self.weight[:3].expand(batch, 3, 6))
        flipped = torch.bmm(x, self.weight.flip(0).expand(batch, 6, 6))
        several = torch.bmm(self.each, x[0].expand(4, 6, 6)).sum()
        return sliced + flipped + several + torch.bmm(self.weight.expand(batch, 6, 6), x)


def test_what_is_no_product_with_a_stored_matrix_is_left_alone(tmp_path: Path) -> None:
    given = program(Otherwise(), torch.randn(2, 6, 6), tmp_path)
    assert products(given) is given


def test_a_transformers_layers_are_the_same_decomposed_as_exported(tmp_path: Path) -> None:
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    shares = []
    for decomposed in (False, True):
        given = program(encoder, torch.randn(2, 5, 16), tmp_path, decomposed)
        layers = survey(simplify(given).program).decomposed
        shares.append(sum(layer.params for layer in layers) / given.parameters)
    assert shares[0] == shares[1] > 0.9
