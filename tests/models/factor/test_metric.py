from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rightrank.models.factor.metric import (
    Pair,
    decompose,
    decompose_columns,
    decompose_in_metric,
    fit_columns,
    spatial_product,
)
from rightrank.models.factor.moments import Moments
from rightrank.models.factor.patches import Columns, columns_of

SHAPES = [(6, 4), (4, 6), (5, 5), (8, 3, 3, 3), (3, 8, 1, 5)]


def rebuilt(factors: Pair, rank: int, shape: tuple[int, ...]) -> torch.Tensor:
    return (factors.up[:rank].double().T @ factors.down[:rank].double()).reshape(shape)


def moments_of(outputs: torch.Tensor, gradients: torch.Tensor) -> Moments:
    mean = outputs.mean(0)
    return Moments(mean, outputs.T @ outputs / len(outputs) - torch.outer(mean, mean), gradients.T @ gradients)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_singular_values_are_those_of_lapack(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    expected = torch.linalg.svdvals(weight.flatten(1).double())
    assert torch.allclose(decompose(weight).sigma, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_bases_together_are_the_weight(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    factors = decompose(weight)
    assert torch.allclose(rebuilt(factors, len(factors.down), shape).float(), weight, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 1000))
def test_the_error_of_a_prefix_is_that_of_proposition_2_1(rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight, x = torch.randn(6, 9), torch.randn(9).double()
    factors = decompose(weight)
    error = (weight.double() @ x - rebuilt(factors, rank, (6, 9)) @ x).square().sum()
    _, sigma, inputs = torch.linalg.svd(weight.double(), full_matrices=False)
    expected = (sigma[rank:] ** 2 * (inputs[rank:] @ x) ** 2).sum()
    assert torch.allclose(error, expected, rtol=1e-3, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 30), st.booleans(), st.integers(0, 1000))
def test_a_layer_is_the_same_seen_from_its_inputs_as_from_its_outputs(
    n: int, m: int, samples: int, gradient: bool, seed: int
) -> None:
    """Also where fewer inputs are seen than there are numbers in one: directions never seen count alike."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, m, generator=generator).double()
    x, g = (torch.randn(samples, size, generator=generator).double() + 1 for size in (m, n))
    mean, normal, square = x.mean(0), torch.cov(x.T, correction=0), g.T @ g
    normal = normal.reshape(m, m)
    outputs = Moments(weight @ mean, weight @ normal @ weight.T, square)
    reached, far = weight.T @ square @ weight, float(square.trace()) / n
    inputs = Moments(mean, normal, reached, side="inputs", axis=1, far=far)
    one, other = (decompose_in_metric(weight, each, gradient) for each in (outputs, inputs))
    largest = float(weight.abs().max())
    torch.testing.assert_close(one.sigma, other.sigma, rtol=1e-5, atol=1e-7 * float(one.sigma[0]))
    for rank in range(1, min(n, m) + 1):
        if rank == min(n, m) or one.sigma[rank] < 0.999 * one.sigma[rank - 1]:
            found, expected = rebuilt(other, rank, (n, m)), rebuilt(one, rank, (n, m))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * largest)
    assert one.moved is not None and other.moved is not None
    torch.testing.assert_close(one.moved.shift[-1], other.moved.shift[-1])
    separate = bool((one.sigma[1:] < 0.999 * one.sigma[:-1]).all())
    if separate:
        torch.testing.assert_close(one.moved.shift, other.moved.shift, rtol=1e-4, atol=1e-4 * largest)
        torch.testing.assert_close(one.moved.scale, other.moved.scale, rtol=1e-4, atol=1e-4)


def test_inputs_that_never_vary_leave_the_full_rank_exact() -> None:
    weight, mean = torch.randn(9, 4).double(), torch.randn(4).double()
    still = Moments(mean, torch.zeros(4, 4).double(), weight.T @ weight, side="inputs", axis=1, far=1.0)
    torch.testing.assert_close(rebuilt(decompose_in_metric(weight, still), 4, (9, 4)), weight)


def test_between_two_plain_factors_nothing_overflows_half_precision() -> None:
    """One direction a thousand wide: were all of it in one factor, what lies between would be 30 times the outputs."""
    torch.manual_seed(0)
    left, right = torch.randn(1024, 1).sign(), torch.randn(1, 1024).sign()
    weight = (0.02 * torch.randn(1024, 1024) + 0.1 * left @ right).half()
    x = (22 * right + torch.randn(4, 1024)).half()
    factors = decompose(weight)
    cut = x @ factors.down[:64].T @ factors.up[:64]
    expected = x.float() @ weight.float().T
    assert expected.abs().max() < 3000
    assert (cut - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gradient", [True, False])
def test_all_bases_in_a_metric_are_the_weight_even_if_the_data_leave_directions_out(
    shape: tuple[int, ...], gradient: bool
) -> None:
    torch.manual_seed(1)
    weight = torch.randn(shape)
    inputs = torch.randn(50, weight.flatten(1).shape[1]).double()
    inputs[:, :2] = 0
    outputs = inputs @ weight.flatten(1).double().T
    factors = decompose_in_metric(weight, moments_of(outputs, torch.randn(50, len(weight)).double()), gradient)
    assert torch.allclose(rebuilt(factors, len(factors.down), shape).float(), weight, atol=1e-3)


def test_a_prefix_in_the_metric_of_the_gradients_beats_the_svd_in_that_metric() -> None:
    torch.manual_seed(2)
    weight = torch.randn(8, 12)
    inputs = torch.randn(400, 12).double() * torch.logspace(0, 2, 12).double()
    outputs = inputs @ weight.double().T
    outputs = outputs - outputs.mean(0)
    gradients = torch.randn(400, 8).double() * torch.logspace(0, 1, 8).double()
    moments = moments_of(outputs, gradients)

    def harm(factors: Pair, rank: int) -> float:
        kept = rebuilt(factors, rank, (8, 12)) @ torch.linalg.pinv(weight.double())
        change = (torch.eye(8).double() - kept) @ outputs.T
        return float(torch.trace(change.T @ moments.gradient @ change))

    ours, svd = decompose_in_metric(weight, moments), decompose(weight)
    for rank in range(1, 8):
        assert harm(ours, rank) <= harm(svd, rank) * 1.001


def test_the_shift_and_scale_of_a_cut_are_those_that_the_data_show() -> None:
    torch.manual_seed(3)
    weight = torch.randn(8, 12)
    inputs = torch.randn(4000, 12).double() + 1
    outputs = inputs @ weight.double().T
    factors = decompose_in_metric(weight, moments_of(outputs, torch.randn(100, 8).double()))
    assert factors.moved is not None
    for rank in (1, 3, 8):
        cut = inputs @ rebuilt(factors, rank, (8, 12)).T
        assert torch.allclose(factors.moved.shift[rank - 1], cut.mean(0) - outputs.mean(0), atol=1e-3)
        assert torch.allclose(factors.moved.scale[rank - 1], cut.var(0) / outputs.var(0), atol=1e-2)


def positive(n: int) -> Tensor:
    rows = torch.randn(2 * n, n).double()
    return rows.T @ rows / (2 * n)


def columns_case(shape: tuple[int, ...], product: bool) -> tuple[Tensor, Moments, Columns, Tensor]:
    """A weight, its moments, and the whole covariance of its inputs, which is a product or not."""
    outputs, inputs, height, width = shape
    weight = torch.randn(shape).double()
    column, across = positive(inputs * height), positive(width)
    across = across / across.diagonal().mean()
    normal = torch.kron(column, across) if product else positive(inputs * height * width)
    mean, flat = torch.randn(len(normal)).double(), weight.reshape(outputs, -1)
    moments = Moments(flat @ mean, flat @ normal @ flat.T, positive(outputs))
    return weight, moments, columns_of(normal, mean, width), normal


def harm(weight: Tensor, down: Tensor, up: Tensor, normal: Tensor, gradient: Tensor) -> float:
    missed = (weight - spatial_product(down, up, tuple(weight.shape))).reshape(len(weight), -1)
    return float(torch.trace(gradient @ missed @ normal @ missed.T))


CONVOLUTIONS = [(6, 4, 3, 3), (4, 9, 3, 2), (12, 2, 2, 5)]


@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_all_bases_of_the_spatial_form_are_the_weight_even_if_columns_are_never_seen(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight, moments, columns, _ = columns_case(shape, product=True)
    dark = Columns(columns.covariance.clone(), columns.mean, torch.zeros_like(columns.across))
    dark.covariance[:2] = dark.covariance[:, :2] = 0
    for each in (columns, dark):
        factors = decompose_columns(weight, moments, each)
        assert len(factors.down) == min(shape[1] * shape[2], shape[0] * shape[3])
        assert torch.allclose(spatial_product(factors.down, factors.up, shape), weight, atol=1e-6)


@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_the_first_bases_are_those_of_all(shape: tuple[int, ...]) -> None:
    torch.manual_seed(4)
    weight, moments, columns, _ = columns_case(shape, product=False)
    all_, few = decompose_columns(weight, moments, columns), decompose_columns(weight, moments, columns, most=3)
    for one, other in zip((few.down, few.up, few.sigma), (all_.down, all_.up, all_.sigma), strict=True):
        torch.testing.assert_close(one, other[:3])


@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_a_covariance_that_rounding_has_left_below_zero_is_taken_as_it_is_above(shape: tuple[int, ...]) -> None:
    torch.manual_seed(5)
    weight, moments, columns, _ = columns_case(shape, product=True)
    values, vectors = torch.linalg.eigh(columns.covariance)
    several = []
    for least in (0.0, -0.1 * float(values.mean())):
        values[0] = least
        below = Columns((vectors * values) @ vectors.T, columns.mean, columns.across)
        several.append(decompose_columns(weight, moments, below))
    one, other = (spatial_product(*each.keep(3), shape) for each in several)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_where_the_covariance_is_a_product_the_bases_are_worth_what_they_say(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    weight, moments, columns, normal = columns_case(shape, product=True)
    factors = decompose_columns(weight, moments, columns)
    whole = harm(weight, factors.down[:0], factors.up[:0], normal, moments.gradient)
    assert float(factors.sigma.square().sum()) == pytest.approx(whole, rel=1e-9)
    for rank in range(1, len(factors.down), 2):
        found = harm(weight, *factors.keep(rank), normal, moments.gradient)
        assert found == pytest.approx(float(factors.sigma[rank:].square().sum()), rel=0.01, abs=1e-3 * whole)


@pytest.mark.parametrize("product", [True, False])
@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_the_shift_of_a_spatial_cut_is_exact_and_its_scale_if_the_covariance_is_a_product(
    shape: tuple[int, ...], product: bool
) -> None:
    torch.manual_seed(2)
    weight, moments, columns, normal = columns_case(shape, product)
    factors = decompose_columns(weight, moments, columns)
    assert factors.moved is not None
    mean, flat = columns.mean.flatten(), weight.reshape(len(weight), -1)
    for rank in (1, 2, len(factors.down)):
        cut = spatial_product(*factors.keep(rank), shape).reshape(len(weight), -1)
        assert torch.allclose(factors.moved.shift[rank - 1], cut @ mean - flat @ mean, atol=1e-6)
        if product:
            scale = torch.diag(cut @ normal @ cut.T) / torch.diag(flat @ normal @ flat.T)
            assert torch.allclose(factors.moved.scale[rank - 1], scale, atol=0.02)
    assert torch.allclose(factors.moved.scale[-1], torch.ones(()).double())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CONVOLUTIONS), st.integers(1, 4), st.booleans(), st.integers(0, 1000))
@example((4, 9, 3, 2), 3, True, 77)
def test_factors_fitted_to_the_whole_covariance_are_never_further_off(
    shape: tuple[int, ...], rank: int, product: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    weight, moments, columns, normal = columns_case(shape, product)
    start = decompose_columns(weight, moments, columns).keep(rank)
    fitted = fit_columns(weight, normal, moments.gradient, *start)
    before, after = (harm(weight, *pair, normal, moments.gradient) for pair in (start, fitted))
    whole = harm(weight, start[0][:0], start[1][:0], normal, moments.gradient)
    assert after <= before + 1e-9 * whole
    assert [tuple(each.shape) for each in fitted] == [tuple(each.shape) for each in start]


def test_no_step_of_any_size_makes_fitted_factors_much_better() -> None:
    torch.manual_seed(3)
    weight, moments, columns, normal = columns_case((6, 4, 3, 3), product=False)
    start = decompose_columns(weight, moments, columns).keep(3)
    fitted = fit_columns(weight, normal, moments.gradient, *start)
    pair = [each.clone().requires_grad_() for each in start]
    optimizer = torch.optim.LBFGS(pair, max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        missed = (weight - spatial_product(*pair, tuple(weight.shape))).reshape(len(weight), -1)
        loss = torch.trace(moments.gradient @ missed @ normal @ missed.T)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    best = float(closure().detach())
    found, began = (harm(weight, *each, normal, moments.gradient) for each in (fitted, start))
    assert found - best < 0.2 * (began - best)


def few_rows(shape: tuple[int, ...], rows: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(rows, shape[1] * shape[2] * shape[3]).double()
    return inputs.T @ inputs / rows, inputs.mean(0)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CONVOLUTIONS), st.integers(1, 4), st.integers(0, 3), st.integers(1, 4), st.integers(0, 1000))
def test_however_little_the_data_say_factors_are_finite_and_fitting_ends(
    shape: tuple[int, ...], rank: int, outputs: int, rows: int, seed: int
) -> None:
    """Gradients of few outputs in single precision, and fewer rows than unknowns."""
    torch.manual_seed(seed)
    weight, seen = torch.randn(shape).double(), torch.randn(outputs, shape[0])
    gradient, (normal, mean) = (seen.T @ seen).double(), few_rows(shape, rows)
    flat = weight.reshape(len(weight), -1)
    moments = Moments(flat @ mean, flat @ normal @ flat.T, gradient)
    factors = decompose_columns(weight, moments, columns_of(normal, mean, shape[3]))
    fitted = fit_columns(weight, normal, gradient, *factors.keep(rank))
    assert factors.moved is not None and bool((factors.moved.scale >= 0).all())
    assert all(bool(each.isfinite().all()) for each in (factors.down, factors.up, factors.sigma, *fitted))


def test_moments_that_rounding_left_indefinite_give_finite_factors() -> None:
    torch.manual_seed(0)
    weight, moments, columns, _ = columns_case((6, 4, 3, 3), product=True)
    off = [each - 0.5 * torch.eye(len(each)).double() for each in (columns.covariance, columns.across)]
    gradient = moments.gradient - 0.5 * torch.eye(6).double()
    factors = decompose_columns(
        weight, Moments(moments.mean, moments.covariance, gradient), Columns(off[0], columns.mean, off[1])
    )
    assert factors.moved is not None and bool((factors.moved.scale >= 0).all())
    assert all(bool(each.isfinite().all()) for each in (factors.down, factors.up, factors.sigma))


def test_factors_that_cannot_be_fitted_are_left_as_they_are() -> None:
    weight, moments, columns, normal = columns_case((6, 4, 3, 3), product=True)
    start = decompose_columns(weight, moments, columns).keep(2)
    broken = normal.clone()
    broken[0, 0] = torch.nan
    kept = fit_columns(weight, broken, moments.gradient, *start)
    assert all(torch.equal(one, other) for one, other in zip(kept, start, strict=True))


@pytest.mark.parametrize("shape", [(6, 9), (8, 5, 3, 3)])
def test_factors_of_a_layer_that_the_outputs_do_not_depend_on_fit_half_precision(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape).half()
    normal = positive(weight[0].numel())
    flat = weight.flatten(1).double()
    moments = Moments(flat.mean(1), flat @ normal @ flat.T, torch.zeros(shape[0], shape[0], dtype=torch.float64))
    if len(shape) == 2:
        factors = decompose_in_metric(weight, moments)
    else:
        columns = columns_of(normal, torch.zeros(len(normal), dtype=torch.float64), shape[3])
        factors = decompose_columns(weight, moments, columns)
    assert bool(factors.down.isfinite().all() and factors.up.isfinite().all())
    down, up = factors.down.float(), factors.up.float()
    whole = up.T @ down if len(shape) == 2 else spatial_product(down, up, shape)
    torch.testing.assert_close(whole, weight.float(), atol=2e-2, rtol=0)
    lengths = factors.down.double().norm(dim=1), factors.up.double().norm(dim=1)
    torch.testing.assert_close(*lengths, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("shape", [(40, 8), (8, 40)])
@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_all_bases_are_the_weight_where_the_inputs_never_change(shape: tuple[int, ...], noise: float) -> None:
    torch.manual_seed(0)
    weight, n = torch.randn(shape), shape[0]
    rounding = noise * torch.randn(n, n, dtype=torch.float64)
    moments = Moments(torch.randn(n, dtype=torch.float64), rounding @ rounding.T, torch.eye(n, dtype=torch.float64))
    factors = decompose_in_metric(weight, moments)
    torch.testing.assert_close(factors.up.T @ factors.down, weight, rtol=1e-3, atol=1e-4)
    half = factors.up[:4].T @ factors.down[:4]
    assert (half - weight).norm() < weight.norm()
