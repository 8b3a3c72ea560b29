from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rightrank.models import architectures, checkpoint
from rightrank.models.assemble.build import build
from rightrank.models.emit import formats
from rightrank.models.errors import Cancelled
from rightrank.models.plan.planner import Planner
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.simplify import zeros as sparsity
from rightrank.models.simplify.zeros import Report, columns, removal
from tests.models import nets


def kill(module: nn.Module, *layers: tuple[str, list[int]]) -> None:
    """Set these output channels' weights to zero."""
    with torch.no_grad():
        for name, channels in layers:
            module.get_submodule(name).weight[channels] = 0  # type: ignore[index,operator]


def same(module: nn.Module, shape: tuple[int, ...], folder: Path, **options: Any) -> tuple[Program, Report]:
    """Eliminate, and hold the result against the module itself on inputs that `eliminate` did not see."""
    smaller, report = sparsity.eliminate(nets.read(module, shape, folder), **options)
    assert report.rejected == ""
    inputs = 3 * torch.randn(5, *shape)
    with torch.no_grad():
        expected, got = module(inputs), smaller.run([inputs])[0]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    return smaller, report


def removed(report: Report) -> dict[str, int]:
    return {layer.name: layer.removed for layer in report.layers if layer.removed}


def kept(report: Report, name: str) -> Mapping[str, int]:
    return next(layer.kept for layer in report.layers if layer.name == name)


class Net(nn.Module):
    """Any layers, and a function that says how they are put together."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def net(forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> Net:
    torch.manual_seed(1)
    module = Net(forward, **layers).eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            with torch.no_grad():
                part.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
                part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
                part.weight.uniform_(0.5, 1.5)
                part.bias.uniform_(-1.5, -0.5)
    return module


def plain() -> Net:
    return net(
        lambda m, x: m.head(torch.relu(m.second(torch.relu(m.first(x))).mean((2, 3)))),
        first=nn.Conv2d(3, 8, 3, padding=1, bias=False),
        second=nn.Conv2d(8, 6, 3, padding=1),
        head=nn.Linear(6, 4),
    )


def test_dead_channels_of_a_plain_net_go_and_the_outputs_stay(tmp_path: Path) -> None:
    module = plain()
    kill(module, ("first", [0, 3]), ("second", [5]))
    smaller, report = same(module, (3, 9, 9), tmp_path)
    assert removed(report) == {"first": 2, "second": 1}
    assert smaller.tensors["second.weight"].shape == (5, 6, 3, 3)
    assert report.params_before - report.params_after == 2 * 27 + (8 * 6 - 6 * 5) * 9 + 1 + 4


def test_the_report_adds_up_and_is_json(tmp_path: Path) -> None:
    module = plain()
    kill(module, ("first", [0, 3]), ("second", [5]))
    _, report = same(module, (3, 9, 9), tmp_path)
    assert report.params_before == sum(layer.params_before for layer in report.layers)
    assert report.params_after == sum(layer.params_after for layer in report.layers)
    assert report.to_json()["removed"] == 3
    assert report.to_json()["layers"][0]["channels"] == 8


def test_a_bias_that_relu_lets_through_folds_into_the_next_linear_layer(tmp_path: Path) -> None:
    module = net(lambda m, x: m.head(torch.relu(m.first(x))), first=nn.Linear(6, 8), head=nn.Linear(8, 3, bias=False))
    kill(module, ("first", [1, 2]))
    with torch.no_grad():
        module.first.bias[1:3] = torch.tensor([0.7, 1.9])
    smaller, report = same(module, (6,), tmp_path)
    assert removed(report) == {"first": 2}
    assert "head.folded_bias" in smaller.graph.parameters
    assert smaller.tensors["head.folded_bias"].shape == (3,)


def test_a_folded_bias_loses_the_channels_that_its_own_layer_loses(tmp_path: Path) -> None:
    module = net(
        lambda m, x: m.head(torch.relu(m.second(torch.sigmoid(m.first(x))))),
        first=nn.Linear(6, 8),
        second=nn.Linear(8, 5, bias=False),
        head=nn.Linear(5, 3),
    )
    kill(module, ("first", [1, 2]), ("second", [4]))
    smaller, report = same(module, (6,), tmp_path)
    assert removed(report) == {"first": 2, "second": 1}
    assert smaller.tensors["second.folded_bias"].shape == (4,)


@pytest.mark.parametrize(("size", "padding", "gone"), [(3, 0, 2), (1, 0, 2), (3, 1, 0)])
def test_a_constant_that_is_not_zero_goes_only_where_no_border_shows_it(
    size: int, padding: int, gone: int, tmp_path: Path
) -> None:
    """β > 0 under batch norm: the channel is the constant β − γ·μ/√(var+ε)."""
    module = net(
        lambda m, x: m.second(torch.relu(m.norm(m.first(x)))).mean((2, 3)),
        first=nn.Conv2d(3, 8, 3, bias=False),
        norm=nn.BatchNorm2d(8),
        second=nn.Conv2d(8, 4, size, padding=padding),
    )
    kill(module, ("first", [0, 4]))
    with torch.no_grad():
        module.norm.bias[[0, 4]] = 1.0
    _, report = same(module, (3, 9, 9), tmp_path)
    assert removed(report) == ({"first": gone} if gone else {})
    assert kept(report, "first") == ({} if gone else {removal.BORDERS: 2})


def test_a_scale_of_zero_in_batch_norm_makes_a_channel_dead(tmp_path: Path) -> None:
    module = net(
        lambda m, x: m.second(torch.relu(m.norm(m.first(x)))).mean((2, 3)),
        first=nn.Conv2d(3, 8, 3, bias=False),
        norm=nn.BatchNorm2d(8),
        second=nn.Conv2d(8, 4, 3, padding=1),
    )
    with torch.no_grad():
        module.norm.weight[[2, 3, 5]] = 0
    smaller, report = same(module, (3, 9, 9), tmp_path)
    assert removed(report) == {"first": 3}
    assert smaller.tensors["norm.running_var"].shape == (5,)


def residual() -> Net:
    return net(
        lambda m, x: m.head((lambda s: torch.relu(s + m.out(m.inside(s))))(torch.relu(m.stem(x))).mean((2, 3))),
        stem=nn.Conv2d(3, 8, 3, padding=1),
        inside=nn.Sequential(nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        out=nn.Conv2d(6, 8, 3, padding=1),
        head=nn.Linear(8, 4),
    )


def test_channels_that_a_residual_addition_ties_go_only_together(tmp_path: Path) -> None:
    module = residual()
    kill(module, ("stem", [0, 1]), ("out", [1, 2]), ("inside.0", [3]))
    with torch.no_grad():
        module.stem.bias[:2] = -0.5
        module.out.bias[:3] = -0.5
    smaller, report = same(module, (3, 8, 8), tmp_path)
    assert removed(report) == {"stem": 1, "inside.0": 1, "out": 1}
    assert kept(report, "stem") == {removal.IN_USE: 1}
    assert kept(report, "out") == {removal.IN_USE: 1}
    assert smaller.tensors["inside.0.weight"].shape == (5, 7, 3, 3)


def test_concatenated_channels_are_found_at_their_place(tmp_path: Path) -> None:
    module = net(
        lambda m, x: m.head(m.last(torch.cat([torch.relu(m.one(x)), x, torch.relu(m.two(x))], 1)).mean((2, 3))),
        one=nn.Conv2d(3, 5, 3, padding=1, bias=False),
        two=nn.Conv2d(3, 6, 1, bias=False),
        last=nn.Conv2d(14, 4, 3),
        head=nn.Linear(4, 2),
    )
    kill(module, ("one", [1]), ("two", [0, 5]))
    smaller, report = same(module, (3, 8, 8), tmp_path)
    assert removed(report) == {"one": 1, "two": 2}
    assert smaller.tensors["last.weight"].shape == (4, 11, 3, 3)


def depthwise(multiplier: int = 1) -> Net:
    return net(
        lambda m, x: m.head(functional.relu6(m.norm(m.deep(functional.relu6(m.first(x))))).mean((2, 3))),
        first=nn.Conv2d(3, 8, 1, bias=False),
        deep=nn.Conv2d(8, 8 * multiplier, 3, padding=1, groups=8, bias=False),
        norm=nn.BatchNorm2d(8 * multiplier),
        head=nn.Linear(8 * multiplier, 4),
    )


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("where", ["first", "deep"])
def test_a_depthwise_convolution_loses_whole_groups(where: str, multiplier: int, tmp_path: Path) -> None:
    """Whether the channel dies before it or in it; with β > 0 after it, which folds into the linear layer."""
    module = depthwise(multiplier)
    kill(module, (where, [2, 3] if where == "first" else list(range(2 * multiplier, 4 * multiplier))))
    with torch.no_grad():
        module.norm.bias[2 * multiplier] = 1.0
    smaller, report = same(module, (3, 8, 8), tmp_path)
    assert removed(report) == {"first": 2, "deep": 2 * multiplier}
    assert smaller.tensors["deep.weight"].shape == (6 * multiplier, 1, 3, 3)
    assert [node.args[8] for node in smaller.graph.nodes if node.op == "aten.convolution.default"] == [1, 6]


def test_half_a_group_of_a_grouped_convolution_stays(tmp_path: Path) -> None:
    module = net(
        lambda m, x: m.head(torch.relu(m.grouped(torch.relu(m.first(x)))).mean((2, 3))),
        first=nn.Conv2d(3, 8, 1),
        grouped=nn.Conv2d(8, 8, 3, groups=4, bias=False),
        head=nn.Linear(8, 4),
    )
    kill(module, ("grouped", [0, 1, 2]))
    _, report = same(module, (3, 8, 8), tmp_path)
    assert removed(report) == {"first": 2, "grouped": 2}
    assert kept(report, "grouped") == {removal.IN_USE: 1}


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3)], ids=str)
def test_a_flattened_channel_is_a_block_of_features(pool: nn.Module, tmp_path: Path) -> None:
    module = net(
        lambda m, x: m.head(torch.relu(m.middle(m.pool(torch.relu(m.norm(m.first(x)))).flatten(1)))),
        first=nn.Conv2d(3, 8, 3, bias=False),
        norm=nn.BatchNorm2d(8),
        pool=pool,
        middle=nn.Linear(8 * 9, 10),
        head=nn.Linear(10, 4),
    )
    kill(module, ("first", [0, 7]), ("middle", [9]))
    with torch.no_grad():
        module.norm.bias[0] = 2.0
        module.middle.bias[9] = 1.0
    smaller, report = same(module, (3, 8, 8), tmp_path)
    assert removed(report) == {"first": 2, "middle": 1}
    assert smaller.tensors["middle.weight"].shape == (9, 54)


def test_sizes_written_into_a_view_follow(tmp_path: Path) -> None:
    module = net(
        lambda m, x: m.head(torch.relu(m.first(x)).view(-1, 8, 4).permute(0, 2, 1).reshape(x.shape[0], 32)),
        first=nn.Conv2d(3, 8, 1, bias=False),
        head=nn.Linear(32, 4),
    )
    kill(module, ("first", [1, 6]))
    smaller, report = same(module, (3, 2, 2), tmp_path)
    assert removed(report) == {"first": 2}
    assert smaller.tensors["head.weight"].shape == (4, 24)


def test_the_hidden_units_of_a_token_mlp_go_though_its_tokens_cannot(tmp_path: Path) -> None:
    module = net(
        lambda m, x: m.head((x + m.down(functional.gelu(m.up(m.norm(x))))).softmax(-1)),
        norm=nn.LayerNorm(6),
        up=nn.Linear(6, 12),
        down=nn.Linear(12, 6),
        head=nn.Linear(6, 3),
    )
    kill(module, ("up", [0, 5]), ("down", [2]))
    _, report = same(module, (7, 6), tmp_path)
    assert removed(report) == {"up": 2}
    assert kept(report, "down") == {"aten.add.Tensor reads it": 1}


def test_what_the_program_returns_stays(tmp_path: Path) -> None:
    module = net(lambda m, x: torch.relu(m.first(x)), first=nn.Linear(6, 8, bias=False))
    kill(module, ("first", [1]))
    _, report = same(module, (6,), tmp_path)
    assert kept(report, "first") == {"it is an output of the program": 1}


@pytest.mark.parametrize(
    ("mix", "reader"),
    [
        (lambda x: x.softmax(1), "aten.softmax.int"),
        (lambda x: functional.channel_shuffle(x, 2), "aten"),
        (lambda x: functional.pixel_shuffle(x, 2).repeat(1, 4, 1, 1), "aten.pixel_shuffle.default"),
        (lambda x: x - x.mean(1, keepdim=True), "aten.mean.dim"),
        (lambda x: functional.group_norm(x, 2), "aten.group_norm.default"),
        (lambda x: x[:, ::2].repeat(1, 2, 1, 1), "aten"),
        (lambda x: x.reshape(x.shape[0], 2, 4, -1).transpose(1, 2).reshape(x.shape), "aten"),
        (lambda x: torch.cumsum(x, 1), "aten.cumsum.default"),
    ],
    ids=["softmax", "shuffle", "pixel shuffle", "mean", "group norm", "slice", "heads", "cumsum"],
)
def test_a_channel_that_is_mixed_with_others_stays(
    mix: Callable[[Tensor], Tensor], reader: str, tmp_path: Path
) -> None:
    module = net(
        lambda m, x: m.second(mix(torch.relu(m.first(x)))).mean((2, 3)),
        first=nn.Conv2d(3, 8, 1, bias=False),
        second=nn.Conv2d(8, 4, 1),
    )
    kill(module, ("first", [1, 3]))
    _, report = same(module, (3, 4, 4), tmp_path)
    assert removed(report) == {}
    assert sum(kept(report, "first").values()) == 2
    assert all(reader in reason for reason in kept(report, "first"))


def test_a_gate_of_zero_closes_a_channel(tmp_path: Path) -> None:
    """Squeeze and excitation keeps zeros zero, and ties the gate to what it scales."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = torch.relu(m.first(x))
        gate = torch.sigmoid(m.up(torch.relu(m.down(x.mean((2, 3), True)))))
        return m.head((x * gate).mean((2, 3)))  # type: ignore[no-any-return]

    module = net(
        forward,
        first=nn.Conv2d(3, 8, 3, bias=False),
        down=nn.Conv2d(8, 4, 1),
        up=nn.Conv2d(4, 8, 1),
        head=nn.Linear(8, 4),
    )
    kill(module, ("first", [1, 3]))
    smaller, report = same(module, (3, 8, 8), tmp_path)
    assert removed(report) == {"first": 2, "up": 2}
    assert smaller.tensors["down.weight"].shape == (4, 6, 1, 1)


def test_a_weight_that_two_calls_share_loses_what_both_can_do_without(tmp_path: Path) -> None:
    module = net(
        lambda m, x: m.head(torch.relu(m.twice(torch.relu(m.twice(torch.relu(m.first(x))))))),
        first=nn.Linear(6, 8, bias=False),
        twice=nn.Linear(8, 8, bias=False),
        head=nn.Linear(8, 4),
    )
    kill(module, ("first", [1, 3]), ("twice", [3, 5]))
    smaller, report = same(module, (6,), tmp_path)
    assert removed(report) == {"first": 1, "twice": 1}
    assert smaller.tensors["twice.weight"].shape == (7, 7)


def test_a_channel_that_reads_only_dead_ones_is_dead(tmp_path: Path) -> None:
    module = plain()
    kill(module, ("first", [0, 3]))
    with torch.no_grad():
        module.second.weight[2, [1, 2, 4, 5, 6, 7]] = 0
    _, report = same(module, (3, 9, 9), tmp_path)
    assert removed(report) == {"first": 2, "second": 1}


def test_one_channel_of_every_layer_stays(tmp_path: Path) -> None:
    module = plain()
    kill(module, ("first", list(range(8))), ("second", list(range(6))))
    smaller, report = same(module, (3, 9, 9), tmp_path)
    assert removed(report) == {"first": 7, "second": 5}
    assert smaller.tensors["second.weight"].shape == (1, 1, 3, 3)
    assert kept(report, "first") == {removal.LAST: 1}


def test_a_net_with_nothing_to_remove_comes_back_as_the_same_objects(tmp_path: Path) -> None:
    program = nets.read(plain(), (3, 9, 9), tmp_path)
    smaller, report = sparsity.eliminate(program)
    assert smaller is program
    assert (report.removed, report.params_after, report.rejected) == (0, report.params_before, "")


def test_a_threshold_that_would_change_the_outputs_is_rejected(tmp_path: Path) -> None:
    program = nets.read(plain(), (3, 9, 9), tmp_path)
    smaller, report = sparsity.eliminate(program, threshold=0.99)
    assert smaller is program
    assert "differ" in report.rejected
    assert report.removed == 0


def test_where_the_gap_removes_too_much_exact_zeros_go_still(tmp_path: Path) -> None:
    module = plain()
    kill(module, ("first", [0]))
    with torch.no_grad():
        module.first.weight[3] *= 1e-3
    _, report = same(module, (3, 9, 9), tmp_path)
    assert removed(report) == {"first": 1}


class Classes(nn.Module):
    """Returns classes alone, which are the same for many other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x).argmax(1)
        return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_where_the_outputs_would_not_show_a_living_channel_only_exact_zeros_go(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """A channel whose small weights the next layer makes up for, of a network that returns classes, or in half
    precision."""
    classes = dtype == torch.float32
    module = Classes() if classes else plain()
    inner: Any = module.net if classes else module
    with torch.no_grad():
        inner.first.weight[0] *= 2e-5
        inner.second.weight[:, 0] *= 0.1 / 2e-5
    first = "net.first" if classes else "first"
    kill(module, (first, [4]))
    program = nets.read(module.to(dtype), (3, 9, 9), tmp_path, dtype)
    for inputs in (None, Samples.of(torch.randn(8, 3, 9, 9).to(dtype))):
        _, report = sparsity.eliminate(program, inputs=inputs)
        assert (removed(report), report.rejected) == ({first: 1}, "")


@pytest.mark.parametrize("shape", [(1,), (), (1, 8), (8,)])
def test_a_bias_that_broadcasts_leaves_its_layer_whole_and_spares_no_other(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    class Broadcast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 10), nn.Linear(8, 3)
            self.weight, self.bias = nn.Parameter(torch.randn(8, 10)), nn.Parameter(torch.zeros(shape))

        def forward(self, x: Tensor) -> Tensor:
            y = functional.linear(torch.relu(self.first(x)), self.weight, self.bias)
            return self.last(torch.relu(y))

    module = Broadcast()
    with torch.no_grad():
        module.weight[::2] = 0
        module.first.weight[:3] = module.first.bias[:3] = 0
    smaller, report = sparsity.eliminate(nets.read(module, (6,), tmp_path))
    assert report.rejected == "" and removed(report).get("weight", 0) == (4 if shape == (8,) else 0)
    x = torch.randn(16, 6)
    torch.testing.assert_close(smaller.run([x])[0], module(x))


def test_the_given_program_is_left_alone(tmp_path: Path) -> None:
    module = plain()
    kill(module, ("first", [0]))
    program = nets.read(module, (3, 9, 9), tmp_path)
    before = {name: tensor.clone() for name, tensor in program.tensors.items()}
    sparsity.eliminate(program)
    assert all(torch.equal(tensor, before[name]) for name, tensor in program.tensors.items())


def test_what_is_left_has_nothing_more_to_remove(tmp_path: Path) -> None:
    module = residual()
    kill(module, ("inside.0", [3, 4]), ("stem", [0]), ("out", [0]))
    with torch.no_grad():
        module.stem.bias[0] = module.out.bias[0] = -1
    smaller, _ = same(module, (3, 8, 8), tmp_path)
    again, report = sparsity.eliminate(smaller)
    assert again is smaller
    assert report.removed == 0


def test_random_numbers_of_the_caller_are_not_used_up(tmp_path: Path) -> None:
    module = plain()
    kill(module, ("first", [0]))
    program = nets.read(module, (3, 9, 9), tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sparsity.eliminate(program)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet50", {"width": 8, "num_classes": 10, "image_size": 32}),
        ("mobilenet_v2", {"width": 0.25, "num_classes": 10, "image_size": 32}),
        ("vit", {"image_size": 16, "patch_size": 8, "depth": 2, "heads": 2, "dim": 16, "mlp_dim": 24}),
    ],
)
def test_real_architectures_lose_dead_channels_only(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    """A random third of all rows zero, a random half of all shifts negative."""
    torch.manual_seed(0)
    module = architectures.build(name, **arguments).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1 and len(parameter) > 4:
                parameter[torch.rand(len(parameter)) < 1 / 3] = 0
            elif parameter.dim() == 1:
                parameter[torch.rand(len(parameter)) < 1 / 2] -= 0.5
    _, report = same(module, architectures.input_shape(name, **arguments), tmp_path)
    assert report.removed > 10
    assert report.params_after < report.params_before


def test_a_smaller_program_is_one_that_a_master_can_be_built_from(tmp_path: Path) -> None:
    """With a folded bias, which is a tensor that the upload did not have."""
    module = net(lambda m, x: m.head(torch.relu(m.first(x))), first=nn.Linear(6, 12), head=nn.Linear(12, 9, bias=False))
    kill(module, ("first", [1, 2]))
    with torch.no_grad():
        module.first.bias[1:3] = 0.5
    smaller, _ = same(module, (6,), tmp_path)
    build(smaller, tmp_path / "master", criterion="c1c2")
    file = io.BytesIO()
    formats.write(tmp_path / "master", Planner.open(tmp_path / "master").plan(1), file)
    file.seek(0)
    inputs = torch.randn(4, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(file)(inputs), module(inputs))


@pytest.mark.parametrize(
    ("columns_", "zero"),
    [
        ([1.0, 0.8, 0.5, 0.0], 1),
        ([1.0, 0.8, 0.5, 2e-5, 1e-5], 2),
        ([1.0, 0.5, 0.2, 0.1, 0.05], 0),
        ([1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5], 0),
        ([0.0, 0.0], 2),
        ([3.0], 0),
    ],
    ids=["exact", "a heap of small ones", "one heap", "no gap", "all zero", "one"],
)
def test_the_threshold_lies_in_the_gap_of_the_norms(columns_: list[float], zero: int) -> None:
    norms = torch.tensor(columns_, dtype=torch.float64)
    assert int((norms <= columns.cut(norms)).sum()) == zero


def test_a_report_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Report((), 0, 0).difference = 1.0  # type: ignore[misc]


class Text(nn.Module):
    """Its channels are small but for a batch norm, and the random inputs of a network of tokens are all padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32, padding_idx=0)
        self.conv, self.norm, self.head = nn.Conv1d(32, 24, 3, padding=1), nn.BatchNorm1d(24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(self.embed(x).transpose(1, 2)))).amax(2))


def test_of_tokens_only_exact_zeros_go_unless_there_are_real_ones(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, tokens = Text(), torch.randint(1, 50, (64, 20))
    with torch.no_grad():
        net.conv.weight[:6] *= 2e-3
        net.conv.bias[:6] *= 2e-3  # type: ignore[index]
        net.conv.weight[6:8] = net.conv.bias[6:8] = 0  # type: ignore[index]
    for _ in range(60):
        net(torch.randint(1, 50, (64, 20)))
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(net.eval(), (tokens[:2],), dynamic_shapes=dynamic), tmp_path / "m.pt2")
    program = checkpoint.read(tmp_path / "m.pt2", None)
    for inputs in (None, Samples.of(tokens)):
        smaller, report = sparsity.eliminate(program, inputs=inputs)
        assert report.removed == 2
        before, after = program.run([tokens])[0], smaller.run([tokens])[0]
        assert (before - after).abs().max() <= 1e-5 * before.abs().max()


def rarely_alive(folder: Path, rare: int, count: int = 300) -> tuple[Program, Samples]:
    """A channel whose weights are next to nothing, and inputs of which one alone, number `rare`, wakes it."""
    torch.manual_seed(0)
    module = net(lambda m, x: m.last(torch.relu(m.first(x))), first=nn.Linear(8, 12), last=nn.Linear(12, 5))
    inputs = torch.randn(count, 8)
    inputs[:, 0] = 0
    with torch.no_grad():
        module.first.weight[:, 0] = module.first.weight[0] = module.first.bias[0] = 0
        module.first.weight[0, 0] = 1e-6
    inputs[rare, 0] = 1e6
    return nets.read(module, (8,), folder), Samples.of(inputs)


@pytest.mark.parametrize(("rare", "gone"), [(20, 0), (255, 0), (256, 1)])
def test_a_channel_that_one_input_wakes_stays_if_it_is_among_the_first_256(
    rare: int, gone: int, tmp_path: Path
) -> None:
    program, inputs = rarely_alive(tmp_path, rare)
    smaller, report = sparsity.eliminate(program, inputs=inputs)
    assert report.removed == gone and (smaller is program) == (gone == 0)
    assert ("differ" in report.rejected, report.compared) == ((True, 0) if not gone else (False, 256))


def test_all_inputs_are_compared_on_where_they_are_few(tmp_path: Path) -> None:
    program, inputs = rarely_alive(tmp_path, 36, 37)
    assert sparsity.eliminate(program, inputs=inputs)[1].removed == 0
    assert sparsity.eliminate(program, inputs=inputs[:36])[1].compared == 36


def test_parts_are_small_and_whole_where_the_batch_is_fixed() -> None:
    groups = tuple((torch.full((count, 2, size), float(size)),) for count, size in ((300, 3), (100, 4)))
    found = sparsity.parts(Samples(groups), 256)
    assert sum(len(batch[0]) for batch in found) == 256 and max(len(batch[0]) for batch in found) <= 16
    assert {batch[0].shape[2] for batch in found} == {3, 4}
    fixed = sparsity.parts(Samples(groups, fixed=24), 256)
    assert [tuple(batch[0].shape[::2]) for batch in fixed] == [(24, 3), (24, 4)] * 4 + [(24, 3)] * 2
    assert [len(batch[0]) for batch in sparsity.parts(Samples(groups, fixed=300), 256)] == [300]
    assert sparsity.parts(Samples(groups, fixed=301), 256) == []


@pytest.mark.parametrize(("small", "exact"), [(0.0, True), (1e-9, False), (1e-4, False)])
def test_the_report_says_whether_all_that_went_was_zero_to_the_last_digit(
    small: float, exact: bool, tmp_path: Path
) -> None:
    module = plain()
    with torch.no_grad():
        module.first.weight[[0, 3]] *= small
        module.second.weight[:, [0, 3]] *= 1e-3
    kill(module, ("first", [5]))
    program = nets.read(module, (3, 9, 9), tmp_path)
    for inputs, compared in ((None, 0), (Samples.of(torch.randn(40, 3, 9, 9)), 16 if exact else 40)):
        smaller, report = sparsity.eliminate(program, inputs=inputs)
        assert (removed(report), report.exact, report.compared) == ({"first": 3}, exact, compared)
        assert report.to_json()["exact"] == exact


@pytest.mark.parametrize(("scale", "exact"), [(0.0, True), (1e-12, False)])
def test_a_scale_of_batch_norm_that_is_nearly_zero_is_not_zero(scale: float, exact: bool, tmp_path: Path) -> None:
    module = net(
        lambda m, x: m.last(torch.relu(m.norm(m.first(x)))),
        first=nn.Linear(6, 9), norm=nn.BatchNorm1d(9), last=nn.Linear(9, 4),
    )  # fmt: skip
    with torch.no_grad():
        module.norm.weight[2] = scale
    _, report = sparsity.eliminate(nets.read(module.eval(), (6,), tmp_path))
    assert (report.removed, report.exact) == (1, exact)


class Rooted(nn.Module):
    """Has no number for inputs below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x.sqrt())))


@pytest.mark.parametrize(("usable", "gone"), [(30, 1), (0, 0)])
def test_inputs_that_the_network_has_no_number_for_decide_nothing(usable: int, gone: int, tmp_path: Path) -> None:
    module = Rooted()
    with torch.no_grad():
        module.first.weight[1] = 0
    inputs = -torch.rand(40, 4)
    inputs[:usable] *= -1
    program = nets.read(module, (4,), tmp_path)
    assert sparsity.eliminate(program, inputs=Samples.of(inputs))[1].removed == gone


def test_a_comparison_tells_how_far_it_is_and_can_be_stopped(tmp_path: Path) -> None:
    program, inputs = rarely_alive(tmp_path, 299)
    seen = []

    def progress(phase: str, completed: int, total: int, unit: str) -> None:
        seen.append((completed, total))
        if completed == 20:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        sparsity.eliminate(program, inputs=inputs, progress=progress)
    assert seen == [(index, 32) for index in range(21)]
