from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from rightrank.models.assemble.build import build, simplified
from rightrank.models.assemble.survey import survey
from rightrank.models.checkpoint import read
from rightrank.models.emit import formats
from rightrank.models.factor.layers import find
from rightrank.models.plan.planner import Planner
from rightrank.models.program.graph import Graph, Input, Node, Ref
from rightrank.models.program.program import Program
from rightrank.models.simplify.fold import Folding, fold
from tests.models.simplify.test_normalize import Net


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (deviation + 1e-5), self.bias * 2, padding=1)


def weights(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / shape[0] ** 0.5)


def adapted(net: Any, x: Tensor) -> Tensor:
    """An update of low rank beside the weight."""
    return F.linear(x, net.full.weight + net.up @ net.down, net.full.bias)


def projected(net: Any, x: Tensor) -> Tensor:
    """One matrix for three layers, as in attention to something else than oneself."""
    q, k, v = net.inside.chunk(3)
    queries, keys = F.linear(x.mean(1, keepdim=True), q), F.linear(x, k)
    return F.scaled_dot_product_attention(queries, keys, F.linear(x, v))


def inputs_first(net: Any, x: Tensor) -> Tensor:
    """As in Hugging Face's Conv1D, and a plain product."""
    x = torch.addmm(net.bias, x.reshape(-1, x.shape[-1]), net.first).reshape(*x.shape[:-1], -1)
    return x.relu() @ net.second


def uneven(net: Any, x: Tensor) -> Tensor:
    """A product whose sum torch and TorchScript would round in different ways, and a masked and a boolean output."""
    y = torch.addmm(net.bias, x, net.square)
    return torch.cat([y.masked_fill(x > 0, -torch.inf), (y > 0).float()], 1)


def biased(net: Any, x: Tensor) -> Tensor:
    """A bias out of numbers alone."""
    return F.linear(x, net.v * 2, torch.full((8,), 0.5))


def shared(net: Any, x: Tensor) -> Tensor:
    """The same computed weight twice."""
    weight = net.v / net.v.norm()
    return F.linear(F.linear(x, weight).relu(), weight)


# Each with the shape of its input, and of every layer (C_out, inputs) by the name that it is found under.
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, tuple[int, int]]]] = {
    "weight norm": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(9, 12)), nn.ReLU(), nn.Linear(12, 8)),
        (9,),
        {"0.parametrizations.weight.original1": (12, 9), "2": (8, 12)},
    ),
    "weight norm of a convolution": (
        lambda: parametrizations.weight_norm(nn.Conv1d(8, 9, 3)),
        (8, 7),
        {"parametrizations.weight.original1": (9, 24)},
    ),
    "padded on both sides": (
        lambda: parametrizations.weight_norm(nn.Conv2d(4, 8, 3, padding="same")),
        (4, 6, 6),
        {"parametrizations.weight.original1": (8, 36)},
    ),
    "spectral norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(9, 8)),
        (9,),
        {"parametrizations.weight.original": (8, 9)},
    ),
    "orthogonal": (
        lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
        (8,),
        {"parametrizations.weight.original": (8, 8)},
    ),
    "standardised": (lambda: Standardised(4, 8, 3), (4, 6, 6), {"": (8, 36)}),
    "adapted": (
        lambda: Net(adapted, full=nn.Linear(9, 8), up=weights(8, 2), down=weights(2, 9)),
        (9,),
        {"full": (8, 9)},
    ),
    "split": (
        lambda: Net(projected, inside=weights(24, 8)),
        (5, 8),
        {"inside.getitem": (8, 8), "inside.getitem_1": (8, 8), "inside.getitem_2": (8, 8)},
    ),
    "inputs first": (
        lambda: Net(inputs_first, first=weights(9, 16), bias=weights(16), second=weights(16, 8)),
        (3, 9),
        {"first": (16, 9), "second": (8, 16)},
    ),
    "uneven": (lambda: Net(uneven, square=weights(16, 16), bias=weights(16)), (16,), {"square": (16, 16)}),
    "biased": (lambda: Net(biased, v=weights(8, 8)), (8,), {"v": (8, 8)}),
    "shared": (lambda: Net(shared, v=weights(8, 8)), (8,), {"v": (8, 8)}),
}


def program(module: nn.Module, shape: tuple[int, ...], folder: Path, decomposed: bool = False) -> Program:
    exported = torch.export.export(
        module.eval(), (torch.randn(2, *shape),), dynamic_shapes=({0: torch.export.Dim.AUTO},)
    )
    torch.export.save(exported.run_decompositions() if decomposed else exported, folder / "net.pt2")
    return read(folder / "net.pt2")


def layers(folded: Program) -> dict[str, tuple[int, int]]:
    found = find(folded.graph, folded.shapes)
    assert all(layer.decomposed for layer in found)
    return {layer.name.removesuffix("weight"): (layer.outputs, layer.inputs) for layer in found}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("decomposed", [False, True], ids=["as written", "decomposed"])
@pytest.mark.parametrize("name", NETS)
def test_every_layer_has_a_stored_weight_afterwards_and_the_outputs_stay(
    name: str, decomposed: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    build, shape, expected = NETS[name]
    given = program(build(), shape, tmp_path, decomposed)
    folded, report = fold(given)
    found = layers(folded)
    assert found == expected if not decomposed else sorted(found.values()) == sorted(expected.values())
    assert folded.parameters <= given.parameters
    assert {*folded.graph.tensors.values()} == {*folded.tensors}
    x = [torch.randn(2, *shape)]
    torch.testing.assert_close(folded.run(x), given.run(x))
    assert fold(folded) == (folded, Folding())
    assert {*report.stored} <= {*folded.tensors} and report.stored and not report.kept


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETS)
def test_such_a_network_is_cut_and_its_whole_is_the_upload_bit_for_bit(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, shape, expected = NETS[name]
    module, x = make().eval(), torch.randn(3, *shape)
    upload = program(module, shape, tmp_path)
    description = build(upload, tmp_path / "master", criterion="energy")
    assert len(description["layers"]) == len(expected)
    assert description["computed"]["stored"] and not description["computed"]["kept"]
    assert description["params"] == upload.parameters
    planner = Planner.open(tmp_path / "master")
    with torch.no_grad():
        want = module(x)
        assert planner.plan(1.0).original
        for plan in (planner.plan(1.0), planner.smallest):
            file = io.BytesIO()
            formats.write(tmp_path / "master", plan, file)
            assert len(file.getvalue()) == plan.bytes
            script = torch.jit.load(io.BytesIO(file.getvalue()))
            assert torch.equal(script(x), want) == plan.original
            numbers = sum(p.numel() for p in [*script.parameters(), *script.buffers()])
            buffers = {*upload.tensors} - upload.graph.parameters
            assert numbers <= plan.params + sum(upload.tensors[name].numel() for name in buffers)
    assert planner.plan(1.0).params == description["params"]


def tied(net: Any, x: Tensor) -> Tensor:
    return F.embedding(x.argmax(-1), net.table) @ net.table.mT @ net.table


def factored(net: Any, x: Tensor) -> Tensor:
    return F.linear(x, net.up @ net.down)


def widened(net: Any, x: Tensor) -> Tensor:
    """Fewer bytes as it is."""
    return F.linear(x, net.small.float() * 0.5)


def repeated(net: Any, x: Tensor) -> Tensor:
    """A great weight out of one number."""
    return F.linear(x, (net.one * 3).expand(64, 64))


def buffered(net: Any, x: Tensor) -> Tensor:
    return F.linear(x, net.table * 2)


MORE, NUMBER = "more parameters or bytes", "no finite"


@pytest.mark.parametrize(
    ("module", "shape", "made_of", "why"),
    [
        (lambda: Net(widened, small=nn.Parameter(torch.randn(8, 8).half())), (8,), ["small"], MORE),
        (lambda: Net(repeated, one=weights(1)), (64,), ["one"], MORE),
        (lambda: Net(buffered, table=nn.Buffer(torch.randn(8, 8)), other=nn.Linear(2, 2)), (8,), None, ""),
        (lambda: Net(tied, table=weights(9, 6)), (4, 9), ["table"], MORE),
        (lambda: Net(factored, up=weights(16, 2), down=weights(2, 16)), (16,), ["down", "up"], MORE),
        (
            lambda: parametrizations.weight_norm(nn.Linear(6, 6)).requires_grad_(False),
            (6,),
            ["parametrizations.weight.original0", "parametrizations.weight.original1"],
            NUMBER,
        ),
        (lambda: nn.Linear(6, 6), (6,), None, ""),
    ],
    ids=[
        "fewer bytes as it is",
        "one number",
        "a buffer",
        "read by others",
        "smaller as it is",
        "not a number",
        "nothing to do",
    ],
)
def test_what_would_take_more_or_be_no_number_stays(
    module: Callable[[], nn.Module], shape: tuple[int, ...], made_of: list[str] | None, why: str, tmp_path: Path
) -> None:
    net = module()
    if hasattr(net, "parametrizations"):
        net.parametrizations.weight.original1[0] = 0
    given = program(net, shape, tmp_path)
    folded, report = fold(given)
    assert folded is given
    assert not report.stored
    assert [list(each.made_of) for each in report.kept] == ([] if made_of is None else [made_of])
    assert all(why in each.why for each in report.kept)


@pytest.mark.parametrize(
    ("difference", "why"), [((1.0, 1e-5), "change the outputs by 1.0e+00"), (RuntimeError("no memory"), "no memory")]
)
def test_weights_that_cannot_be_stored_stay_and_the_description_says_why(
    difference: tuple[float, float] | Exception, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def compare(*_: Any) -> tuple[float, float]:
        if isinstance(difference, Exception):
            raise difference
        return difference

    given = program(parametrizations.weight_norm(nn.Linear(6, 6)), (6,), tmp_path)
    monkeypatch.setattr("rightrank.models.simplify.zeros.compare", compare)
    same, template, reports = simplified(given, survey(given), None)
    assert same is given and template.original is template
    assert why in reports["computed"]["kept"][0]["why"] and not reports["computed"]["stored"]


def test_two_of_one_value_are_stored_as_one_only_where_their_types_agree(tmp_path: Path) -> None:
    def both(net: Any, x: Tensor) -> Tensor:
        return F.linear(x, net.w * 2) + F.linear(x.half(), (net.w * 2).half()).float()

    net = Net(both, w=nn.Parameter(torch.randint(-3, 3, (6, 6)).float()), v=weights(6, 6))
    given = program(net, (6,), tmp_path)
    folded, _ = fold(given)
    x = [torch.randn(2, 6)]
    torch.testing.assert_close(folded.run(x), given.run(x))


def test_biases_that_are_equal_stay_two(tmp_path: Path) -> None:
    def both(net: Any, x: Tensor) -> Tensor:
        one, other = net.both.chunk(2)
        return F.linear(x, net.a.weight, one) + F.linear(x, net.b.weight, other)

    net = Net(both, a=nn.Linear(6, 6, bias=False), b=nn.Linear(6, 6, bias=False), both=nn.Parameter(torch.zeros(12)))
    folded, _ = fold(program(net, (6,), tmp_path))
    assert {*folded.tensors} == {"a.weight", "b.weight", "both.getitem", "both.getitem_1"}
    assert folded.graph.parameters == {*folded.tensors}


def test_a_chain_of_a_thousand_layers_takes_one_pass(tmp_path: Path) -> None:
    nodes, tensors, value = [], {}, "x"
    for index in range(1000):
        tensors[f"w{index}"] = torch.eye(4)
        nodes.append(Node(f"m{index}", "aten.matmul.default", (Ref(value), Ref(f"p{index}")), (), (f"m{index}",)))
        value = f"m{index}"
    graph = Graph(
        (Input("x", "float32", (None, 4)),),
        {f"p{index}": f"w{index}" for index in range(1000)},
        frozenset(tensors),
        tuple(nodes),
        (value,),
    )
    folded, _ = fold(Program(graph, tensors))
    assert {node.op for node in folded.graph.nodes} == {"aten.linear.default"}
    assert {*folded.tensors} == {*tensors}
