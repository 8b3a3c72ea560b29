from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rightrank.models import checkpoint
from rightrank.models.assemble.survey import survey
from rightrank.models.errors import DataError
from rightrank.models.factor import layers
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.gathering import Gathering, NoGradient
from rightrank.models.factor.layer import Layer
from rightrank.models.factor.moments import Moments
from rightrank.models.factor.patches import Columns, ColumnSums, columns_of
from rightrank.models.factor.room import Room
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.simplify.recurrent import apart
from tests.models.nets import SHAPES, Small, build, gather, make, read, recurring, source


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def prepared(folder: Path) -> tuple[nn.Module, Program, tuple[Layer, ...]]:
    module = make(Two)
    program = read(module, (6,), folder)
    return module, program, layers.find(program.graph, program.shapes)


def test_mean_and_covariance_are_those_of_the_outputs_without_the_bias(tmp_path: Path) -> None:
    module, program, found = prepared(tmp_path)
    x = torch.randn(150, 6)
    first, _ = gather(program, found, x)
    y = (x @ module.first.weight.T).double()  # type: ignore[union-attr,operator]
    assert torch.allclose(first.mean, y.mean(0), atol=1e-5)
    assert torch.allclose(first.covariance, torch.cov(y.T, correction=0), atol=1e-4)


def test_the_gradient_moment_is_that_of_random_projections_of_the_outputs(tmp_path: Path) -> None:
    module, program, found = prepared(tmp_path)
    x = torch.randn(4000, 6)
    first, last = gather(program, found, x)
    assert torch.allclose(last.gradient, torch.eye(3).double(), atol=0.15)
    weight = module.last.weight.detach().double()  # type: ignore[union-attr,operator]
    slope = 1 - torch.tanh(module.first(x).detach()).double() ** 2  # type: ignore[operator]
    expected = torch.einsum("ki,ni,nj,kj->ij", weight, slope, slope, weight) / len(x)
    assert torch.allclose(first.gradient, expected, atol=0.1 * float(expected.max()))


def test_the_gradient_of_the_loss_has_the_fisher_matrix_for_its_moment(tmp_path: Path) -> None:
    _, program, found = prepared(tmp_path)
    x = torch.randn(6000, 6)
    last = gather(program, found, x, gradient="loss")[1]
    p = program.run([x])[0].softmax(1).double()
    expected = (torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)).mean(0)
    assert torch.allclose(last.gradient, expected, atol=0.02)


def test_classes_are_drawn_at_every_place_of_an_output(tmp_path: Path) -> None:
    program = read(nn.Conv2d(2, 3, 3).eval(), (2, 5, 5), tmp_path)
    (found,) = gather(program, survey(program).layers, torch.randn(3000, 2, 5, 5), gradient="loss")
    p = program.run([torch.randn(3000, 2, 5, 5)])[0].softmax(1).movedim(1, -1).flatten(0, 2).double()
    expected = (torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)).mean(0) * 9  # places of a sample
    assert torch.allclose(found.gradient, expected, atol=0.1)


def test_from_outputs_without_classes_none_are_drawn(tmp_path: Path) -> None:
    program = read(nn.Sequential(nn.Linear(6, 5), nn.Flatten(0)).eval(), (6,), tmp_path)
    with pytest.raises(DataError, match="classes"):
        gather(program, survey(program).layers, torch.randn(8, 6), gradient="loss")


def test_the_same_seed_gives_the_same_moments(tmp_path: Path) -> None:
    _, program, found = prepared(tmp_path)
    x = torch.randn(70, 6)
    one, other = (gather(program, found, x) for _ in range(2))
    assert all(torch.equal(a.gradient, b.gradient) for a, b in zip(one, other, strict=True))


def test_the_weights_are_left_without_gradients(tmp_path: Path) -> None:
    _, program, found = prepared(tmp_path)
    gather(program, found, torch.randn(10, 6))
    assert all(tensor.grad is None for tensor in program.tensors.values())


def columns(moments: Moments) -> Columns:
    """What the spatial form has gathered."""
    found = moments.seen["spatial"]
    assert isinstance(found, Columns)
    return found


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
    monkeypatch.setattr("rightrank.models.factor.patches.NUMBERS", 4000)  # several parts a batch
    torch.manual_seed(0)
    module = nn.Conv2d(4, 6, **geometry).eval()
    program = read(module, (4, 11, 12), tmp_path)
    x = torch.randn(70, 4, 11, 12).cumsum(3) + 1
    (layer,) = survey(program).decomposed
    (found,) = gather(program, (layer,), x, forms=FORMS)
    kernel, stride, padding, dilation = module.kernel_size, module.stride, module.padding, module.dilation
    unfolded = nn.functional.unfold(x, kernel, dilation, padding, stride).movedim(1, 2).flatten(0, 1).double()  # type: ignore[arg-type]
    covariance = torch.cov(unfolded.T, correction=0)
    expected = columns_of(covariance, unfolded.mean(0), kernel[1])
    assert list(found.seen) == ["spatial"]
    for name in ("covariance", "mean", "across"):
        torch.testing.assert_close(getattr(columns(found), name), getattr(expected, name), rtol=1e-4, atol=1e-4)


def test_columns_are_gathered_where_they_are_asked_for_and_can_be(tmp_path: Path) -> None:
    program = read(make(Small), SHAPES[Small], tmp_path)
    found, x = survey(program).decomposed, torch.randn(8, *SHAPES[Small])
    assert all(each.seen == {} for each in gather(program, found, x))
    assert all(each.seen == {} for each in gather(program, found, x, forms={"channel": FORMS["channel"]}))
    moments = gather(program, found, x, forms=FORMS)
    assert [layer.name for layer, each in zip(found, moments, strict=True) if each.seen] == ["stem", "dilated"]


def test_inputs_that_are_always_zero_have_columns_too(tmp_path: Path) -> None:
    program = read(nn.Conv2d(4, 6, 3, padding=1).eval(), (4, 5, 5), tmp_path)
    found = survey(program).decomposed
    (moments,) = gather(program, found, torch.zeros(8, 4, 5, 5), forms=FORMS)
    assert torch.equal(columns(moments).across, torch.eye(3).double())


def test_a_mean_far_above_the_spread_does_not_cost_the_columns_covariance(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = read(nn.Conv2d(4, 6, 3).eval(), (4, 9, 9), tmp_path)
    found, spread = survey(program).decomposed, torch.randn(64, 4, 9, 9)
    near, far = (columns(gather(program, found, spread + mean, forms=FORMS)[0]) for mean in (0, 1000))
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
    program = checkpoint.read(tmp_path / "half.pt2", None)
    found = survey(program).decomposed
    x = torch.randn(64, 64, 8, 8) * 20
    (half,) = gather(program, found, x.half(), forms=FORMS)
    floats = {name: each.float() for name, each in program.tensors.items()}
    (whole,) = gather(program.with_tensors(floats), found, x, forms=FORMS)
    for one, other in (
        (half.covariance, whole.covariance),
        (columns(half).covariance, columns(whole).covariance),
        (columns(half).across, columns(whole).across),
    ):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * float(other.abs().max()))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_is_gathered_leaves_the_inputs_as_they_are(tmp_path: Path, layout: torch.memory_format) -> None:
    program = read(nn.Conv2d(4, 6, 3).eval(), (4, 9, 9), tmp_path)
    x = torch.randn(1, 4, 9, 9).contiguous(memory_format=layout)
    layer, sums = survey(program).decomposed[0], x.clone()
    ColumnSums(layer.shape).add(x, ((1, 1), (0, 0), (1, 1)), (7, 7))
    assert torch.equal(x, sums)


def test_two_kinds_of_gradient_gathered_together_are_each_as_alone(tmp_path: Path) -> None:
    _, program, found = prepared(tmp_path)
    x = torch.randn(150, 6)
    gathering = Gathering(program, found, ("logits", "loss"), {}, Room(tmp_path))
    gathering.add(Samples.of(x[:128]), lambda done: None)
    both = [moments.gradient for moments in gathering.moments("loss")]
    assert all(map(torch.equal, both, [moments.gradient for moments in gather(program, found, x[:128], "loss")]))
    gathering.only("logits")
    heard: list[int] = []
    gathering.add(Samples.of(x[128:]), heard.append)
    assert heard == [128, 150]
    expected = gather(program, found, x)
    for one, other in zip(gathering.moments("logits"), expected, strict=True):
        assert torch.equal(one.gradient, other.gradient) and torch.equal(one.covariance, other.covariance)
    with pytest.raises(KeyError):
        gathering.moments("loss")


@pytest.mark.parametrize("gradient", ["logits", "loss"])
def test_sums_in_files_are_those_in_memory_to_the_digit(gradient: Any, tmp_path: Path) -> None:
    _, program, found = prepared(tmp_path)
    x = torch.randn(150, 6)
    # So little that some lie here, and some there.
    for memory in (0, 1500):
        mapped, plain = (gather(program, found, x, gradient, memory=each) for each in (memory, None))
        for one, other in zip(mapped, plain, strict=True):
            assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("mean", "covariance"))
            assert torch.equal(one.gradient, other.gradient)


def test_moments_are_made_when_they_are_asked_for(tmp_path: Path) -> None:
    _, program, found = prepared(tmp_path)
    gathering = Gathering(program, found, ["logits"], {}, Room(tmp_path))
    gathering.add(Samples.of(torch.randn(64, 6)), lambda done: None)
    moments = gathering.moments("logits")
    assert len(moments) == len(found) and moments[0] is not moments[0]
    assert [each.side for each in moments[-2:]] == [each.side for each in list(moments)[-2:]]
    with pytest.raises(IndexError):
        moments[len(found)]


def test_inputs_that_fill_no_batch_are_refused_in_words(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(6, 4).eval(), (torch.randn(32, 6),)), tmp_path / "static.pt2")
    program = checkpoint.read(tmp_path / "static.pt2", None)
    found = survey(program).decomposed
    with pytest.raises(DataError, match="20 calibration inputs do not fill one batch of 32"):
        gather(program, found, torch.randn(20, 6))


def test_a_mean_far_above_the_spread_costs_no_precision(tmp_path: Path) -> None:
    module, program, found = prepared(tmp_path)
    x = torch.randn(150, 6) + 3000
    first, _ = gather(program, found, x)
    y = x.double() @ module.first.weight.double().T  # type: ignore[union-attr,operator]
    torch.testing.assert_close(first.mean, y.mean(0), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(first.covariance, torch.cov(y.T, correction=0), rtol=1e-2, atol=1e-2)


class Wide(nn.Module):
    """A layer of fewer inputs than outputs between two others, as a 1×1 convolution or a linear layer."""

    def __init__(self, convolution: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.wide: nn.Module = nn.Conv2d(4, 11, 1, stride=2, padding=1) if convolution else nn.Linear(4, 11)
        self.last = nn.Conv2d(11, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        if isinstance(self.wide, nn.Conv2d):
            return self.last(torch.tanh(self.wide(x)))
        return self.last(torch.tanh(self.wide(x.movedim(1, -1)).movedim(-1, 1)))


@pytest.mark.parametrize("convolution", [True, False])
def test_a_layer_of_few_inputs_is_seen_from_these(convolution: bool, tmp_path: Path) -> None:
    """What is seen there goes with what is seen from the outputs: H = WᵀGW, and W·C·Wᵀ is their covariance."""
    torch.manual_seed(0)
    program = read(Wide(convolution).eval(), (3, 7, 7), tmp_path)
    found = {layer.name: layer for layer in survey(program).decomposed}
    wide, x = found["wide"], torch.randn(100, 3, 7, 7)
    (near,) = gather(program, (wide,), x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rightrank.models.factor.sums.axis", lambda layer: 0)
        (far,) = gather(program, (wide,), x)
    assert (near.side, near.axis, far.side) == ("inputs", 1, "outputs")
    weight = program.tensors["wide.weight"].flatten(1).double()
    torch.testing.assert_close(weight @ near.mean, far.mean, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(weight @ near.covariance @ weight.T, far.covariance, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(near.gradient, weight.T @ far.gradient @ weight, rtol=1e-3, atol=1e-4)
    assert near.far == pytest.approx(float(far.gradient.trace()) / 11, rel=1e-4)


class Looked(nn.Module):
    """Words looked up in a table, which is the head's too if it is tied."""

    def __init__(self, words: int, tied: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 5)
        self.head = nn.Linear(5, words, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(x)))


@pytest.mark.parametrize("words", [3, 9])
def test_an_embedding_is_seen_from_its_fewer_numbers_and_every_row_counts_once_more(words: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Looked(words, tied=False).eval()
    path, free = tmp_path / "looked.pt2", ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(module, (torch.zeros(2, 4, dtype=torch.int64),), dynamic_shapes=free), path)
    program = checkpoint.read(path)
    table = next(layer for layer in survey(program).decomposed if layer.name == "words")
    x = torch.randint(0, 2, (100, 4))  # the last rows are never looked up
    (found,) = gather(program, (table,), x)
    weight = module.words.weight.detach().double()
    seen = torch.cat([torch.arange(words), x.flatten()])
    rows = weight[seen] if words > 5 else functional.one_hot(seen, words).double()
    assert (found.axis, found.side, found.turned) == ((1, "outputs", True) if words > 5 else (0, "inputs", True))
    torch.testing.assert_close(found.mean, rows.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.covariance, torch.cov(rows.T, correction=0), rtol=1e-3, atol=1e-4)


def test_a_tied_table_is_worth_what_looking_up_and_the_head_are_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    free = ({0: torch.export.Dim("batch")},)
    export = torch.export.export(
        Looked(9, tied=True).eval(), (torch.zeros(2, 4, dtype=torch.int64),), dynamic_shapes=free
    )
    torch.export.save(export, tmp_path / "tied.pt2")
    program = checkpoint.read(tmp_path / "tied.pt2")
    (layer,) = survey(program).decomposed
    x = torch.randint(0, 9, (100, 4))
    (both,) = gather(program, (layer,), x)
    alone = [gather(program, (replace(layer, calls=(call,)),), x)[0] for call in layer.calls]
    assert {each.side for each in alone} == {"outputs", "inputs"} and both.side == "outputs"
    worths = [float((each.covariance * each.gradient).sum()) for each in alone]
    assert float((both.covariance * both.gradient).sum()) == pytest.approx(sum(worths), rel=1e-6)


class Twofold(nn.Module):
    """Two outputs of very different sizes, each of a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), 1000 * self.two(x)


def test_of_several_outputs_each_counts_in_its_own_unit(tmp_path: Path) -> None:
    program = read(make(Twofold), (6,), tmp_path)
    one, two = gather(program, survey(program).decomposed, torch.randn(2000, 6))
    worth = [float((each.covariance * each.gradient).sum()) for each in (one, two)]
    assert worth[0] == pytest.approx(worth[1], rel=0.5)


def test_of_very_many_rows_some_stand_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    program = read(Wide(True).eval(), (3, 15, 15), tmp_path)
    found, x = survey(program).decomposed, torch.randn(256, 3, 15, 15)
    expected = gather(program, found, x)
    monkeypatch.setattr("rightrank.models.factor.sums.ROWS", 1000)
    for some, every in zip(gather(program, found, x), expected, strict=True):
        torch.testing.assert_close(
            some.covariance, every.covariance, rtol=0.1, atol=0.1 * float(every.covariance.max())
        )
        torch.testing.assert_close(some.gradient, every.gradient, rtol=0.1, atol=0.2 * float(every.gradient.max()))
        assert not torch.equal(some.covariance, every.covariance)


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
    program = read(make(Unit), (6,), tmp_path)
    found = survey(program).layers
    x = torch.randn(64, 6)
    x[5] = 0
    for each in gather(program, found, x, gradient=gradient):
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
    program = read(make(kind), (6,), tmp_path)
    found = survey(program).decomposed
    x = torch.randn(64, 6)
    with pytest.raises(NoGradient, match="gradients"):
        gather(program, found, x)
    gathering = Gathering(program, found, ["logits"], {}, Room(tmp_path), weighed=False)
    gathering.add(Samples.of(x), lambda done: None)
    assert all(torch.equal(each.gradient, torch.eye(len(each.mean)).double()) for each in gathering.moments("logits"))
    folder = source(make(kind), (6,), tmp_path / "source", x)
    assert build(folder, tmp_path / "master")["criterion"] == "whitened"
    with pytest.raises(NoGradient, match="gradients"):
        build(folder, tmp_path / "other", criterion="logit")


def test_what_is_kept_of_a_pass_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, program, found = prepared(tmp_path)
    x, told = torch.randn(64, 6), list[int]()
    expected = gather(program, found, x)
    monkeypatch.setattr("rightrank.models.factor.gathering.VALUES", 100)
    gathering = Gathering(program, found, ["logits"], {}, Room(tmp_path))
    gathering.add(Samples.of(x), told.append)
    assert 1 < told[1] - told[0] < 10
    for each, wanted in zip(gathering.moments("logits"), expected, strict=True):
        torch.testing.assert_close(each.covariance, wanted.covariance)


@pytest.mark.parametrize("gradient", ["logits", "loss"])
def test_inputs_that_make_no_numbers_are_left_out(gradient: Any, tmp_path: Path) -> None:
    _, program, found = prepared(tmp_path)
    x = torch.randn(64, 6)
    expected = gather(program, found, x[:40], gradient=gradient)
    x[40:] = torch.nan
    for each, wanted in zip(gather(program, found, x, gradient=gradient), expected, strict=True):
        torch.testing.assert_close(each.mean, wanted.mean)
        torch.testing.assert_close(each.covariance, wanted.covariance)
        assert bool(each.gradient.isfinite().all())


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_inputs_that_make_no_numbers_at_all_are_refused_in_words(value: float, tmp_path: Path) -> None:
    _, program, found = prepared(tmp_path)
    program = program.with_tensors({**program.tensors, "first.bias": torch.zeros(5)})
    x = torch.randn(64, 6).sign() * value
    with pytest.raises(DataError, match="not finite|overflow"):
        gather(program, found, x)


def test_images_that_are_no_numbers_are_left_out_of_the_columns_too(tmp_path: Path) -> None:
    program = read(make(Small), SHAPES[Small], tmp_path)
    found = survey(program).layers
    x = torch.randn(64, *SHAPES[Small])
    expected = gather(program, found, x[:40], forms=FORMS)
    x[40:] = torch.nan
    for each, wanted in zip(gather(program, found, x, forms=FORMS), expected, strict=True):
        assert each.seen.keys() == wanted.seen.keys()
        if wanted.seen:
            torch.testing.assert_close(columns(each).covariance, columns(wanted).covariance)
            torch.testing.assert_close(columns(each).across, columns(wanted).across)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_of_recurrent_calls_they_are_those_of_what_each_product_is_given_at_every_step(cell: str) -> None:
    torch.manual_seed(0)
    program, x = apart(recurring(cell)), torch.randn(40, 7, 9)
    found = survey(program).layers
    seen = dict(zip((layer.name for layer in found), gather(program, found, x), strict=True))
    made = program.run([x])[0]
    before = torch.cat([torch.full((40, 1, 16), 0.1), made[:, :-1]], 1)
    for name, rows in (("0.0", x), ("0.1", before)):
        rows = rows.flatten(0, 1).double()
        assert (seen[name].side, seen[name].axis) == ("inputs", 1)
        torch.testing.assert_close(seen[name].mean, rows.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen[name].covariance, torch.cov(rows.T, correction=0), rtol=1e-4, atol=1e-5)
        assert bool(seen[name].gradient.isfinite().all()) and float(seen[name].gradient.trace()) > 0


def test_of_recurrent_calls_the_gradients_are_those_that_reach_each_product() -> None:
    """Unrolled by hand, over all steps: of 9 inputs and 16 outputs they are seen from the inputs, of 16 and 16 not."""
    torch.manual_seed(0)
    program, x = apart(recurring("rnn_tanh")), torch.randn(64, 7, 9)
    found = survey(program).layers
    seen = dict(zip((layer.name for layer in found), gather(program, found, x), strict=True))
    weights = [program.tensors[f"0.{place}"] for place in range(4)]
    states, sums = [torch.full((64, 16), 0.1)], []
    for data in x.unbind(1):
        sums.append(nn.functional.linear(data, weights[0], weights[2]).requires_grad_())
        states.append((sums[-1] + nn.functional.linear(states[-1], weights[1], weights[3])).tanh())
    outputs = torch.stack(states[1:], 1), states[-1].unsqueeze(0)
    generator = torch.Generator().manual_seed(0)
    scaled = [each / each.detach().square().mean().sqrt() for each in outputs]
    loss = sum((each * torch.randn(each.shape, generator=generator)).sum() for each in scaled)
    gradients = torch.cat(torch.autograd.grad(loss, sums))  # type: ignore[arg-type]
    for name, rows in (("0.0", (gradients @ weights[0]).double()), ("0.1", gradients.double())):
        torch.testing.assert_close(seen[name].gradient, rows.T @ rows / 64, rtol=1e-3, atol=1e-3)
