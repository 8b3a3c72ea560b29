from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.checkpoint import memory, read
from rightrank.models.emit import formats
from rightrank.models.plan.planner import Planner
from tests.models.nets import Small, export, make
from tests.models.nets import build as built

# torch warns when it saves a weight that is a view; that it does is what this is about.
pytestmark = pytest.mark.filterwarnings("ignore:No complete tensor")


def transposed(module: nn.Module) -> nn.Module:
    """The same network, every matrix lying the other way round."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = layer.weight.data.t().contiguous().t()
    return module


def channels_last(module: nn.Module) -> nn.Module:
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 5)).eval()


@pytest.mark.parametrize(
    ("make_it", "shape"),
    [
        (lambda: transposed(perceptron()), (40,)),
        (lambda: channels_last(make(Small)), (3, 12, 12)),
        (lambda: transposed(channels_last(make(Small))), (3, 12, 12)),
    ],
)
def test_the_whole_budget_is_the_network_bit_for_bit_and_a_smaller_one_is_cut(
    make_it: Callable[[], nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    module, x = make_it(), torch.randn(7, *shape)
    program = read(export(module, shape, tmp_path / "model.pt2"))
    assert all(tensor.is_contiguous() for tensor in program.tensors.values())
    with torch.no_grad():
        wanted = module(x)
        assert torch.equal(program.run([x])[0], wanted)
    program.save(tmp_path)
    described = built(tmp_path, tmp_path / "master")
    assert sum(layer["decomposed"] for layer in described["layers"]) >= 3
    planner = Planner.open(tmp_path / "master")
    for plan, exact in ((planner.plan(budget=1), True), (planner.plan(budget=0.6), False)):
        file = io.BytesIO()
        formats.write(tmp_path / "master", plan, file)
        assert len(file.getvalue()) == plan.bytes
        file.seek(0)
        with torch.no_grad():
            found: Tensor = torch.jit.load(file)(x)
        assert torch.equal(found, wanted) == exact and any(plan.ranks) != exact


def test_only_a_whole_tensor_has_an_order() -> None:
    x = torch.randn(4, 6)
    assert memory.order_of(x) is None and memory.order_of(x[:, :3]) is None
    assert memory.order_of(x.t()) == (1, 0) and memory.order_of(x.unsqueeze(1).expand(4, 5, 6)) is None
    assert memory.order_of(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)) == (0, 2, 3, 1)
    for each in (x.t(), x[:, :3], x.unsqueeze(1).expand(4, 5, 6)):
        assert torch.equal(memory.dense(each), each)
