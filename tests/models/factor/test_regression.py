from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rightrank.models.assemble.survey import survey
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.gradients import Gradients
from rightrank.models.factor.layer import Layer
from rightrank.models.factor.regression import Regression
from rightrank.models.improve import refit
from rightrank.models.master.variant import Variant
from rightrank.models.program.calls import Convolution, layer_call
from rightrank.models.program.graph import Ref
from rightrank.models.program.program import Program
from rightrank.models.progress import silent
from tests.models.nets import gather, make, read

X, W, B = Ref("x"), Ref("w"), Ref("b")


def layer_of(shape: tuple[int, ...], groups: int = 1) -> Layer:
    return Layer("a", "a.weight", "conv", shape, ("y",), 1, True, FORMS["channel"], groups=groups)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_rows_of_a_convolution_are_what_it_is_given_and_makes(data: st.DataObject) -> None:
    """Of any dimensions, groups and geometry: rows times the matrix, and the bias, are the outputs' rows."""
    dims, groups = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 2, 4]))
    stride, padding, dilation, kernel = (
        data.draw(st.tuples(*[st.integers(*ends)] * dims)) for ends in ((1, 3), (0, 2), (1, 3), (1, 3))
    )
    weight, bias = torch.randn(8, 8 // groups, *kernel).double(), torch.randn(8).double()
    x = torch.randn(70, 8, *(9, 8, 7)[:dims]).double()  # more than are taken at a time
    call = Convolution(X, W, B, stride, padding, dilation, False, (0,) * dims, groups)
    y = torch.convolution(x, weight, bias, stride, padding, dilation, False, (0,) * dims, groups)
    check(Regression.of(call, layer_of((8, 8 // groups, *kernel), groups)), x, y, weight, bias)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_rows_of_a_transposed_convolution_are_its_patches_where_they_do_not_overlap(data: st.DataObject) -> None:
    dims = data.draw(st.integers(1, 3))
    kernel, more, padding = (data.draw(st.tuples(*[st.integers(*ends)] * dims)) for ends in ((1, 3), (0, 2), (0, 2)))
    stride = tuple(size + each for size, each in zip(kernel, more, strict=True))
    extra = tuple(data.draw(st.integers(0, step - 1)) for step in stride)
    x, weight = torch.randn(70, 5, *(9, 8, 7)[:dims]).double(), torch.randn(5, 4, *kernel).double()
    bias = torch.randn(4).double()
    call = Convolution(X, W, B, stride, padding, (1,) * dims, True, extra, 1)
    y = torch.convolution(x, weight, bias, stride, padding, (1,) * dims, True, extra, 1)
    check(Regression.of(call, layer_of((5, 4, *kernel))), x, y, weight, bias)


def check(regression: Regression | None, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> None:
    assert regression is not None
    matrix = regression.matrix(weight)
    assert torch.equal(regression.weight(matrix), weight)
    offset, count = regression.offset(bias), 0
    assert offset is not None
    for rows, made in regression.pairs([x[:40], x[40:]], [y[:40], y[40:]]):
        given_ = rows.reshape(len(rows), regression.groups, regression.inputs)
        expected = torch.einsum("kgi,goi->kgo", given_, matrix).flatten(1) + offset
        torch.testing.assert_close(made, expected)
        count += len(rows)
    assert count and count % len(x) == 0


@pytest.mark.parametrize("groups", [1, 4])
def test_patches_are_the_same_however_few_are_made_at_a_time(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(70, 8, 9, 9), torch.randn(70, 8, 9, 9)
    call = Convolution(X, W, None, (1, 1), (1, 1), (1, 1), False, (0, 0), groups)
    regression = Regression.of(call, layer_of((8, 8 // groups, 3, 3), groups))
    assert regression is not None

    def rows() -> tuple[int, list[Tensor]]:
        parts = [torch.cat(each, 1) for each in regression.pairs([x], [y])]
        return len(parts), sorted(torch.cat(parts).tolist())

    count, expected = rows()
    monkeypatch.setattr("rightrank.models.factor.regression.NUMBERS", 8 * 9 * 64 * 5)
    assert count == 2 and rows() == (17 + 2, expected)


def test_no_patch_that_is_whole_is_left_out() -> None:
    """A padding takes off the first and the last of eight, and leaves half of what an uneven one begins."""
    x, weight = torch.randn(3, 2, 8).double(), torch.randn(2, 4, 2).double()
    for padding, left in ((0, 8), (1, 6), (2, 6), (3, 4)):
        call = Convolution(X, W, None, (2,), (padding,), (1,), True, (0,), 1)
        y = torch.conv_transpose1d(x, weight, stride=2, padding=padding)
        regression = Regression.of(call, layer_of((2, 4, 2)))
        assert regression is not None
        assert sum(len(rows) for rows, _ in regression.pairs([x], [y])) == 3 * left
    tiny = torch.conv_transpose1d(x[:, :, :1], weight, stride=2, padding=0)[:, :, :1]
    cut = Regression.of(Convolution(X, W, None, (2,), (1,), (1,), True, (1,), 1), layer_of((2, 4, 2)))
    assert cut is not None and list(cut.pairs([x[:, :, :1]], [tiny])) == []


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups", "fits"),
    [
        ((2, 2), (2, 2), (1, 1), 1, True),
        ((1, 2), (1, 3), (4, 1), 1, True),
        ((3, 2), (2, 2), (1, 1), 1, False),
        ((2, 2), (2, 4), (1, 2), 1, False),
        ((2, 2), (2, 2), (1, 1), 2, False),
    ],
)
def test_a_transposed_convolution_is_one_where_its_patches_do_not_overlap(
    kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], groups: int, fits: bool
) -> None:
    call = Convolution(X, W, None, stride, (0, 0), dilation, True, (0, 0), groups)
    assert (Regression.of(call, layer_of((6, 4, *kernel), groups)) is not None) == fits


def test_the_shift_of_a_transposed_convolutions_channels_is_that_of_all_their_outputs() -> None:
    x, weight, other = torch.randn(50, 3, 6).double() + 1, *torch.randn(2, 3, 4, 2).double()
    for stride in (2, 3):
        extra = stride - 2  # every patch with its gap
        call = Convolution(X, W, None, (stride,), (0,), (1,), True, (extra,), 1)
        regression = Regression.of(call, layer_of((3, 4, 2)))
        assert regression is not None
        moved = (regression.matrix(other - weight)[0] @ x.mean((0, 2))).flatten()
        whole, less = (torch.conv_transpose1d(x, w, stride=stride, output_padding=extra) for w in (weight, other))
        torch.testing.assert_close(regression.shift(moved), (less - whole).mean((0, 2)))


class Pair(nn.Module):
    """Two layers, the second of which is given what the cut of the first makes."""

    def __init__(self, dims: int, second: Any) -> None:
        super().__init__()
        self.first = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](3, 8, 3, padding=1)
        self.second = second()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


SECOND = {
    "conv1d": (1, partial(nn.Conv1d, 8, 6, 3, stride=2, padding=1)),
    "conv3d": (3, partial(nn.Conv3d, 8, 6, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 0), dilation=(2, 1, 1))),
    "grouped": (2, partial(nn.Conv2d, 8, 12, 3, padding=1, groups=2)),
    "grouped3d": (3, partial(nn.Conv3d, 8, 12, 2, groups=2, bias=False)),
    "depthwise": (2, partial(nn.Conv2d, 8, 8, 3, padding=1, groups=8)),
    "transposed": (2, partial(nn.ConvTranspose2d, 8, 6, 2, stride=2)),
    "transposed1d": (1, partial(nn.ConvTranspose1d, 8, 6, 3, stride=4, padding=1, bias=False)),
    "overlapping": (2, partial(nn.ConvTranspose2d, 8, 6, 3, stride=2)),
}
SIZES = {1: (24,), 2: (7, 7), 3: (5, 5, 5)}


def fitted(name: str, ranks: tuple[int, int], folder: Path) -> tuple[Program, Layer, dict[str, Tensor], Any]:
    """A pair's program, its second layer, what a refit at these ranks found, and data, moments, the plain cut."""
    dims, second = SECOND[name]
    torch.manual_seed(0)
    x = torch.randn(120, 3, *SIZES[dims]).cumsum(-1) / 2 + 0.5
    program = read(make(partial(Pair, dims, second)), x.shape[1:], folder)
    template = survey(program)
    moments = gather(program, template.decomposed, x)
    gradients, factors = {}, {}
    for layer, rank, each in zip(template.decomposed, ranks, moments, strict=False):
        gradients[layer.weight] = Gradients.of(each)
        if rank:
            kept = layer.form.factors(layer, program.tensors[layer.weight], each).keep(layer, rank)
            factors[layer.weight] = kept
    cut = Variant(template, factors, program.tensors).program()
    by_weight = dict(zip((layer.weight for layer in template.decomposed), ranks, strict=False))
    found = refit.refit(program, template.layers, by_weight, gradients, cut, [(x,)], silent)
    layer = next(each for each in template.layers if each.name == "second")
    return program, layer, found, (x, moments, factors)


def equations(program: Program, layer: Layer, found: dict[str, Tensor], x: Tensor) -> tuple[Regression, Tensor, Tensor]:
    """Rows of what the refit first layer gives the second, and of what the whole network makes of it; centred."""
    first = survey(program).decomposed[0]
    made = first.form.product(first, {side: found[f"{side}/first"] for side in first.form.sides})
    before = program.with_tensors(
        {**program.tensors, "first.weight": made, "first.bias": found["corrected/first.bias"]}
    )
    call = layer_call(next(node for node in program.graph.nodes if node.name == layer.calls[0]))
    assert isinstance(call, Convolution) and isinstance(call.input, Ref)
    regression = Regression.of(call, layer)
    assert regression is not None
    given_: list[Tensor] = []

    def note(node: Any, arguments: list[Any], result: Any) -> Any:
        if node.name == layer.calls[0]:
            given_.append(arguments[0])
        return result

    before.run([x], visit=note)
    rows = [torch.cat(each).double() for each in zip(*regression.pairs(given_, program.run([x])), strict=True)]
    rows = [each.reshape(len(each), regression.groups, -1).movedim(1, 0) for each in rows]
    return regression, rows[0] - rows[0].mean(1, keepdim=True), rows[1] - rows[1].mean(1, keepdim=True)


def cost(regression: Regression, weight: Tensor, original: Tensor, x: Tensor, y: Tensor, metric: Tensor) -> float:
    """What a refit minimises: the error of a layer's outputs about their mean in a metric of them (g, o, o), and the
    ridge's part."""
    matrix, start = regression.matrix(weight.double()), regression.matrix(original.double())
    ridge = x.square().mean((1, 2)) * (refit.RIDGE + refit.FEW * regression.inputs / x.shape[1])
    error, moved = x @ matrix.mT - y, matrix - start
    fit = (error @ metric * error).sum((1, 2)) / x.shape[1]
    return float((fit + ridge * (moved.mT @ metric * moved.mT).sum((1, 2))).sum())


@pytest.mark.parametrize("name", [name for name in SECOND if name != "overlapping"])
def test_a_layer_left_whole_is_fitted_best(name: str, tmp_path: Path) -> None:
    program, layer, found, (x, _, _) = fitted(name, (2, 0), tmp_path)
    regression, rows, wanted = equations(program, layer, found, x)
    unity = torch.eye(regression.outputs).double().expand(regression.groups, -1, -1)
    original, better = program.tensors["second.weight"], found["dense/second.weight"]
    measure = partial(cost, regression, original=original, x=rows, y=wanted, metric=unity)
    assert measure(better) < measure(original)
    for seed in range(4):
        torch.manual_seed(seed)
        nearby = better + 0.01 * better.abs().mean() * torch.randn(better.shape)
        assert measure(better) < measure(nearby)


@pytest.mark.parametrize("name", [name for name in SECOND if name not in ("depthwise", "overlapping")])
def test_a_cut_layer_is_fitted_no_worse_than_it_was_cut(name: str, tmp_path: Path) -> None:
    program, layer, found, (x, moments, factors) = fitted(name, (2, 2), tmp_path)
    regression, rows, wanted = equations(program, layer, found, x)
    metric = torch.eye(regression.outputs).double().unsqueeze(0)
    if moments[1].side == "outputs":
        starts = range(0, layer.outputs, regression.outputs)
        parts = [slice(start, start + regression.outputs) for start in starts]
        metric = torch.stack([moments[1].gradient[each, each] for each in parts])
    new = layer.form.product(layer, {side: found[f"{side}/second"] for side in layer.form.sides})
    old = layer.form.product(layer, factors["second.weight"])
    measure = partial(cost, regression, original=program.tensors["second.weight"], x=rows, y=wanted, metric=metric)
    assert measure(new) < measure(old) * (1 + 1e-3)


def test_where_patches_overlap_the_cut_stays(tmp_path: Path) -> None:
    _, _, found, _ = fitted("overlapping", (2, 2), tmp_path)
    assert "down/first" in found and not any("second" in name for name in found)
