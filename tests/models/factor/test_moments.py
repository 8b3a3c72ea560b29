from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rightrank.models import checkpoint
from rightrank.models.assemble import master
from rightrank.models.errors import DataError
from rightrank.models.factor import layers
from rightrank.models.factor import moments as statistics
from rightrank.models.factor import patches as columns
from rightrank.models.factor.layers import Layer
from rightrank.models.factor.moments import Gathering, NoGradient
from rightrank.models.factor.patches import columns_of
from rightrank.models.program import execute
from rightrank.models.program.graph import Graph
from tests.models.nets import SHAPES, Small, gather, make, read, source


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def prepared(folder: Path) -> tuple[nn.Module, Graph, dict[str, Tensor], tuple[Layer, ...]]:
    module = make(Two)
    graph, tensors = read(module, (6,), folder)
    shapes = execute.shapes(graph, tensors)
    shapes |= {value: tuple(tensors[name].shape) for value, name in graph.tensors.items()}
    return module, graph, dict(tensors), layers.find(graph, shapes)


def test_mean_and_covariance_are_those_of_the_outputs_without_the_bias(tmp_path: Path) -> None:
    module, graph, tensors, found = prepared(tmp_path)
    x = torch.randn(150, 6)
    first, _ = gather(graph, tensors, found, x)
    y = (x @ module.first.weight.T).double()  # type: ignore[union-attr,operator]
    assert torch.allclose(first.mean, y.mean(0), atol=1e-5)
    assert torch.allclose(first.covariance, torch.cov(y.T, correction=0), atol=1e-4)


def test_the_gradient_moment_is_that_of_random_projections_of_the_outputs(tmp_path: Path) -> None:
    module, graph, tensors, found = prepared(tmp_path)
    x = torch.randn(4000, 6)
    first, last = gather(graph, tensors, found, x)
    assert torch.allclose(last.gradient, torch.eye(3).double(), atol=0.15)
    weight = module.last.weight.detach().double()  # type: ignore[union-attr,operator]
    slope = 1 - torch.tanh(module.first(x).detach()).double() ** 2  # type: ignore[operator]
    expected = torch.einsum("ki,ni,nj,kj->ij", weight, slope, slope, weight) / len(x)
    assert torch.allclose(first.gradient, expected, atol=0.1 * float(expected.max()))


def test_the_gradient_of_the_loss_has_the_fisher_matrix_for_its_moment(tmp_path: Path) -> None:
    _, graph, tensors, found = prepared(tmp_path)
    x = torch.randn(6000, 6)
    last = gather(graph, tensors, found, x, gradient="loss")[1]
    p = execute.run(graph, tensors, [x])[0].softmax(1).double()
    expected = (torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)).mean(0)
    assert torch.allclose(last.gradient, expected, atol=0.02)


def test_classes_are_drawn_from_two_dimensional_outputs_only(tmp_path: Path) -> None:
    graph, tensors = read(nn.Conv2d(2, 3, 3).eval(), (2, 5, 5), tmp_path)
    found = master.survey(graph, tensors).layers
    with pytest.raises(DataError, match="classes"):
        gather(graph, tensors, found, torch.randn(8, 2, 5, 5), gradient="loss")


def test_the_same_seed_gives_the_same_moments(tmp_path: Path) -> None:
    _, graph, tensors, found = prepared(tmp_path)
    x = torch.randn(70, 6)
    one, other = (gather(graph, tensors, found, x) for _ in range(2))
    assert all(torch.equal(a.gradient, b.gradient) for a, b in zip(one, other, strict=True))


def test_the_weights_are_left_without_gradients(tmp_path: Path) -> None:
    _, graph, tensors, found = prepared(tmp_path)
    gather(graph, tensors, found, torch.randn(10, 6))
    assert all(tensor.grad is None for tensor in tensors.values())


GEOMETRIES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": (3, 5), "stride": (1, 2), "padding": (2, 2), "dilation": (2, 1)},
    {"kernel_size": 2, "stride": 3},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_the_columns_moments_are_those_of_the_patches(
    geometry: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "NUMBERS", 4000)  # several parts a batch
    torch.manual_seed(0)
    module = nn.Conv2d(4, 6, **geometry).eval()
    graph, tensors = read(module, (4, 11, 12), tmp_path)
    x = torch.randn(70, 4, 11, 12).cumsum(3) + 1
    (layer,) = master.survey(graph, tensors).decomposed
    (found,) = gather(graph, tensors, (layer,), x, columns=True)
    kernel, stride, padding, dilation = module.kernel_size, module.stride, module.padding, module.dilation
    patches = nn.functional.unfold(x, kernel, dilation, padding, stride).movedim(1, 2).flatten(0, 1).double()  # type: ignore[arg-type]
    covariance = torch.cov(patches.T, correction=0)
    expected = columns_of(covariance, patches.mean(0), kernel[1])
    assert found.columns is not None
    for name in ("covariance", "mean", "across"):
        torch.testing.assert_close(getattr(found.columns, name), getattr(expected, name), rtol=1e-4, atol=1e-4)


def test_columns_are_gathered_where_they_are_asked_for_and_can_be(tmp_path: Path) -> None:
    graph, tensors = read(make(Small), SHAPES[Small], tmp_path)
    found, x = master.survey(graph, tensors).decomposed, torch.randn(8, *SHAPES[Small])
    assert all(each.columns is None for each in gather(graph, tensors, found, x))
    moments = gather(graph, tensors, found, x, columns=True)
    assert [layer.name for layer, each in zip(found, moments, strict=True) if each.columns] == ["stem", "dilated"]


def test_inputs_that_are_always_zero_have_columns_too(tmp_path: Path) -> None:
    graph, tensors = read(nn.Conv2d(4, 6, 3, padding=1).eval(), (4, 5, 5), tmp_path)
    found = master.survey(graph, tensors).decomposed
    (moments,) = gather(graph, tensors, found, torch.zeros(8, 4, 5, 5), columns=True)
    assert moments.columns is not None
    assert torch.equal(moments.columns.across, torch.eye(3).double())


def test_a_mean_far_above_the_spread_does_not_cost_the_columns_covariance(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph, tensors = read(nn.Conv2d(4, 6, 3).eval(), (4, 9, 9), tmp_path)
    found, spread = master.survey(graph, tensors).decomposed, torch.randn(64, 4, 9, 9)
    near, far = (gather(graph, tensors, found, spread + mean, columns=True)[0].columns for mean in (0, 1000))
    assert near is not None and far is not None
    torch.testing.assert_close(far.covariance, near.covariance, rtol=0, atol=0.01)
    torch.testing.assert_close(far.across, near.across, rtol=0, atol=0.01)
    torch.testing.assert_close(far.mean, near.mean + 1000, rtol=0, atol=0.01)


def test_sums_of_half_precision_do_not_overflow(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(64, 8, 3).half().eval()
    torch.export.save(
        torch.export.export(module, (torch.randn(2, 64, 8, 8).half(),), dynamic_shapes=({0: torch.export.Dim("b")},)),
        tmp_path / "half.pt2",
    )
    graph, tensors = checkpoint.read(tmp_path / "half.pt2", None)
    found = master.survey(graph, tensors).decomposed
    x = torch.randn(64, 64, 8, 8) * 20
    (half,) = gather(graph, tensors, found, x.half(), columns=True)
    (whole,) = gather(graph, {name: each.float() for name, each in tensors.items()}, found, x, columns=True)
    assert half.columns is not None and whole.columns is not None
    for one, other in (
        (half.covariance, whole.covariance),
        (half.columns.covariance, whole.columns.covariance),
        (half.columns.across, whole.columns.across),
    ):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * float(other.abs().max()))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_is_gathered_leaves_the_inputs_as_they_are(tmp_path: Path, layout: torch.memory_format) -> None:
    graph, tensors = read(nn.Conv2d(4, 6, 3).eval(), (4, 9, 9), tmp_path)
    x = torch.randn(1, 4, 9, 9).contiguous(memory_format=layout)
    layer, sums = master.survey(graph, tensors).decomposed[0], x.clone()
    columns.ColumnSums(layer).add(x, ((1, 1), (0, 0), (1, 1)), (7, 7))
    assert torch.equal(x, sums)


def test_two_kinds_of_gradient_gathered_together_are_each_as_alone(tmp_path: Path) -> None:
    _, graph, tensors, found = prepared(tmp_path)
    x = torch.randn(150, 6)
    gathering = Gathering(graph, tensors, found, ("logits", "loss"), columns=False)
    gathering.add(x[:128], lambda done: None)
    both = [moments.gradient for moments in gathering.moments("loss")]
    assert all(map(torch.equal, both, [moments.gradient for moments in gather(graph, tensors, found, x[:128], "loss")]))
    gathering.only("logits")
    heard: list[int] = []
    gathering.add(x[128:], heard.append)
    assert heard == [128, 150]
    expected = gather(graph, tensors, found, x)
    for one, other in zip(gathering.moments("logits"), expected, strict=True):
        assert torch.equal(one.gradient, other.gradient) and torch.equal(one.covariance, other.covariance)
    with pytest.raises(KeyError):
        gathering.moments("loss")


def test_inputs_that_fill_no_batch_are_refused_in_words(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(6, 4).eval(), (torch.randn(32, 6),)), tmp_path / "static.pt2")
    graph, tensors = checkpoint.read(tmp_path / "static.pt2", None)
    found = master.survey(graph, tensors).decomposed
    with pytest.raises(DataError, match="20 calibration inputs do not fill one batch of 32"):
        gather(graph, tensors, found, torch.randn(20, 6))


def test_a_mean_far_above_the_spread_costs_no_precision(tmp_path: Path) -> None:
    module, graph, tensors, found = prepared(tmp_path)
    x = torch.randn(150, 6) + 3000
    first, _ = gather(graph, tensors, found, x)
    y = x.double() @ module.first.weight.double().T  # type: ignore[union-attr,operator]
    torch.testing.assert_close(first.mean, y.mean(0), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(first.covariance, torch.cov(y.T, correction=0), rtol=1e-2, atol=1e-2)


class Unit(nn.Module):
    """The gradient of a norm is not a number where the input is all zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5, bias=False), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y / (y.square().sum(1, keepdim=True).sqrt() + 1e-6))


@pytest.mark.parametrize("gradient", ["logits", "loss"])
def test_inputs_whose_gradients_are_no_numbers_are_left_out_of_them(gradient: Any, tmp_path: Path) -> None:
    graph, tensors = read(make(Unit), (6,), tmp_path)
    found = master.survey(graph, tensors).layers
    x = torch.randn(64, 6)
    x[5] = 0
    for each in gather(graph, tensors, found, x, gradient=gradient):
        assert bool(each.gradient.isfinite().all()) and float(each.gradient.trace()) > 0


class Choosing(nn.Module):
    """Its output is the class."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5, bias=False), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x))).argmax(1)


class Stepped(Choosing):
    """A step has no derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.floor_divide(self.first(x), 0.1) * 0.1)


@pytest.mark.parametrize("kind", [Choosing, Stepped])
def test_a_network_without_gradients_is_refused_in_words_where_they_count(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    graph, tensors = read(make(kind), (6,), tmp_path)
    found = master.survey(graph, tensors).decomposed
    x = torch.randn(64, 6)
    with pytest.raises(NoGradient, match="gradients"):
        gather(graph, tensors, found, x)
    gathering = Gathering(graph, tensors, found, ["logits"], False, weighed=False)
    gathering.add(x, lambda done: None)
    assert all(torch.equal(each.gradient, torch.eye(len(each.mean)).double()) for each in gathering.moments("logits"))
    folder = source(make(kind), (6,), tmp_path / "source", x)
    assert master.build(folder, tmp_path / "master")["criterion"] == "whitened"
    with pytest.raises(NoGradient, match="gradients"):
        master.build(folder, tmp_path / "other", criterion="logit")


def test_what_is_kept_of_a_pass_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, graph, tensors, found = prepared(tmp_path)
    x, told = torch.randn(64, 6), list[int]()
    expected = gather(graph, tensors, found, x)
    monkeypatch.setattr(statistics, "VALUES", 100)
    gathering = Gathering(graph, tensors, found, ["logits"], False)
    gathering.add(x, told.append)
    assert 1 < told[1] - told[0] < 10
    for each, wanted in zip(gathering.moments("logits"), expected, strict=True):
        torch.testing.assert_close(each.covariance, wanted.covariance)


@pytest.mark.parametrize("gradient", ["logits", "loss"])
def test_inputs_that_make_no_numbers_are_left_out(gradient: Any, tmp_path: Path) -> None:
    _, graph, tensors, found = prepared(tmp_path)
    x = torch.randn(64, 6)
    expected = gather(graph, tensors, found, x[:40], gradient=gradient)
    x[40:] = torch.nan
    for each, wanted in zip(gather(graph, tensors, found, x, gradient=gradient), expected, strict=True):
        torch.testing.assert_close(each.mean, wanted.mean)
        torch.testing.assert_close(each.covariance, wanted.covariance)
        assert bool(each.gradient.isfinite().all())


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_inputs_that_make_no_numbers_at_all_are_refused_in_words(value: float, tmp_path: Path) -> None:
    _, graph, tensors, found = prepared(tmp_path)
    tensors["first.bias"] = torch.zeros(5)
    x = torch.randn(64, 6).sign() * value
    with pytest.raises(DataError, match="not finite|overflow"):
        gather(graph, tensors, found, x)


def test_images_that_are_no_numbers_are_left_out_of_the_columns_too(tmp_path: Path) -> None:
    graph, tensors = read(make(Small), SHAPES[Small], tmp_path)
    found = master.survey(graph, tensors).layers
    x = torch.randn(64, *SHAPES[Small])
    expected = gather(graph, tensors, found, x[:40], columns=True)
    x[40:] = torch.nan
    for each, wanted in zip(gather(graph, tensors, found, x, columns=True), expected, strict=True):
        assert (each.columns is None) == (wanted.columns is None)
        if each.columns is not None and wanted.columns is not None:
            torch.testing.assert_close(each.columns.covariance, wanted.columns.covariance)
            torch.testing.assert_close(each.columns.across, wanted.columns.across)
