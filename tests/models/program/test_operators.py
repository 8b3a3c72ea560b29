"""What torch's functions give, the files give: small networks of many functions each, read, written and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rightrank
from rightrank.models.program.operators import ALLOWED, IN_PLACE

Functions: TypeAlias = Mapping[str, Callable[..., Any]]


class Each(nn.Module):
    """A layer, and of its outputs, as (n, 16, 4) above 0, each function's result. A function may have a module."""

    def __init__(self, functions: Functions, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 64)
        self.functions, self.parts = functions, nn.ModuleDict(modules)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.layer(x).sigmoid().reshape(x.shape[0], 16, 4) + 0.1
        return {name: call(y, *self._part(name)) for name, call in self.functions.items()}

    def _part(self, name: str) -> list[nn.Module]:
        return [self.parts[name]] if name in self.parts else []


def square(x: Tensor) -> Tensor:
    """Positive definite."""
    return x[:, :4] @ x[:, :4].mT + torch.eye(4)


def put(x: Tensor, where: Any, value: Any) -> Tensor:
    x[where] = value
    return x


def twice(x: Tensor) -> Tensor:
    part = x[:, 1:5]
    part[..., 0] = 7.0
    part.mul_(2)
    return x + part.sum((1, 2), keepdim=True)


def image(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], 2, 4, 8)


def wave(x: Tensor) -> Tensor:
    return x.flatten(1)


EDGES = torch.tensor([0.3, 0.6])

KINDS: dict[str, Functions] = {
    "norms and distances": {
        "linalg_norm": lambda x: torch.linalg.norm(x, dim=1),
        "linalg_norm of all": lambda x: x / torch.linalg.norm(x),
        "linalg_norm by name": lambda x: torch.linalg.norm(x, ord="fro", dim=(1, 2)),
        "matrix_norm": lambda x: torch.linalg.matrix_norm(x),
        "nuclear": lambda x: torch.linalg.matrix_norm(x, ord="nuc"),
        "cdist": lambda x: torch.cdist(x, x.flip(1)),
        "cdist of many": lambda x: torch.cdist(x.repeat(1, 2, 1), x.repeat(1, 2, 1)),
        "pdist": lambda x: F.pdist(x[0]),
        "dist": lambda x: torch.dist(x, x.flip(1)),
    },
    "along a dimension": {
        "diff": lambda x: torch.diff(x, dim=1),
        "diff twice": lambda x: torch.diff(x, n=2, dim=1, prepend=x[:, :1]),
        "cummax": lambda x: x.cummax(1)[0],
        "cummin": lambda x: x.cummin(1)[1],
        "logcumsumexp": lambda x: x.logcumsumexp(1),
        "trapezoid": lambda x: torch.trapezoid(x, dim=1),
        "cumulative_trapezoid": lambda x: torch.cumulative_trapezoid(x, dim=1),
        "cumulative_trapezoid by places": lambda x: torch.cumulative_trapezoid(x, x.cumsum(1), dim=1),
        "quantile": lambda x: x.quantile(0.5, dim=1),
        "quantiles": lambda x: x.quantile(torch.tensor([0.1, 0.9]), dim=1),
        "nanquantile": lambda x: x.nanquantile(0.25, dim=1),
        "kthvalue": lambda x: x.kthvalue(2, dim=1)[0],
        "mode": lambda x: (x * 4).long().mode(1)[0],
        "median": lambda x: x - x.median(),
        "nanmedian": lambda x: x.nanmedian(1)[0],
        "nanmean": lambda x: x.nanmean(1),
        "nansum": lambda x: x.nansum(1),
        "msort": lambda x: x.msort(),
        "histc": lambda x: torch.histc(x, 8, 0, 1),
        "count_nonzero": lambda x: (x > 0.5).count_nonzero(),
    },
    "searches and bits": {
        "bucketize": lambda x: torch.bucketize(x, EDGES),
        "bucketize to the right": lambda x: torch.bucketize(x, EDGES, right=True, out_int32=True),
        "searchsorted": lambda x: torch.searchsorted(EDGES, x),
        "isclose": lambda x: torch.isclose(x, x.mean(1, keepdim=True), rtol=0.1),
        "isin": lambda x: torch.isin((x * 5).long(), torch.tensor([1, 2])),
        "isin of a number": lambda x: torch.isin((x * 5).long(), 2),
        "shifts": lambda x: ((x * 9).long() << 2) + ((x * 90).long() >> 1),
        "shifts by tensors": lambda x: torch.bitwise_left_shift((x * 9).long(), (x * 3).long()),
        "gcd": lambda x: torch.gcd((x * 90).long(), torch.lcm((x * 9).long() + 1, torch.tensor(6))),
        "comparisons": lambda x: torch.greater(x, 0.5) ^ torch.less_equal(x, x.flip(1)) & torch.not_equal(x, 0.3),
        "copysign": lambda x: torch.copysign(x, x - 0.5),
        "frexp": lambda x: torch.frexp(x)[0],
        "ldexp": lambda x: torch.ldexp(x, torch.tensor(3)),
        "nextafter": lambda x: torch.nextafter(x, x + 1),
    },
    "special functions": {
        "deg2rad": torch.deg2rad,
        "rad2deg": torch.rad2deg,
        "lgamma": torch.lgamma,
        "digamma": torch.digamma,
        "polygamma": lambda x: torch.polygamma(2, x),
        "mvlgamma": lambda x: torch.mvlgamma(x + 2, 3),
        "i0": torch.i0,
        "igamma": lambda x: torch.special.gammainc(x, x + 1),
        "arccos": lambda x: torch.arccos(x - 0.5),
        "arctan2": lambda x: torch.arctan2(x, x + 1),
        "fix": lambda x: torch.fix(x * 9),
        "negative": torch.negative,
        "angle": lambda x: torch.angle(x - 0.5),
        "erfcx": torch.special.erfcx,
        "ndtr": torch.special.ndtr,
        "log_ndtr": torch.special.log_ndtr,
        "entr": torch.special.entr,
        "i1e": torch.special.i1e,
        "xlog1py": lambda x: torch.special.xlog1py(x, x + 1) + torch.special.xlog1py(2.0, x),
        "zeta": lambda x: torch.special.zeta(x + 1.5, 2.0),
        "xlogy": lambda x: torch.xlogy(x, 3.0) + torch.xlogy(3.0, x),
        "bessel": torch.special.bessel_j0,
    },
    "matrices": {
        "inv": lambda x: torch.linalg.inv(square(x)),
        "solve": lambda x: torch.linalg.solve(square(x), x[:, :4]),
        "solve_triangular": lambda x: torch.linalg.solve_triangular(square(x).tril(), x[:, :4], upper=False),
        "det": lambda x: torch.linalg.det(square(x)),
        "slogdet": lambda x: torch.linalg.slogdet(square(x))[1],
        "logdet": lambda x: torch.logdet(square(x)),
        "cholesky": lambda x: torch.linalg.cholesky(square(x)),
        "cholesky_solve": lambda x: torch.cholesky_solve(x[:, :4], torch.linalg.cholesky(square(x))),
        "cholesky_inverse": lambda x: torch.cholesky_inverse(torch.linalg.cholesky(square(x))),
        "qr": lambda x: torch.linalg.qr(square(x))[1],
        "svd": lambda x: torch.linalg.svd(x, full_matrices=False)[1],
        "svdvals": lambda x: torch.linalg.svdvals(x),
        "eigh": lambda x: torch.linalg.eigh(square(x))[0],
        "eigvalsh": lambda x: torch.linalg.eigvalsh(square(x)),
        "matrix_power": lambda x: torch.linalg.matrix_power(square(x), 3),
        "pinv": lambda x: torch.linalg.pinv(x),
        "cross": lambda x: torch.linalg.cross(x[..., :3], x[..., 1:]),
        "vander": lambda x: torch.linalg.vander(x[:, 0], N=3),
        "diagonal": lambda x: torch.linalg.diagonal(square(x)),
        "addr": lambda x: torch.addr(square(x)[0], x[0, 0], x[0, 1]),
        "addmv": lambda x: torch.addmv(x[0, :, 0], x[0], x[0, 0]),
    },
    "images and places": {
        "max_unpool": lambda x: F.max_unpool2d(*F.max_pool2d(image(x), 2, return_indices=True), 2),
        "affine_grid": lambda x: F.grid_sample(
            image(x),
            F.affine_grid(torch.eye(2, 3).expand(x.shape[0], 2, 3), [x.shape[0], 2, 4, 8], align_corners=False),
            align_corners=False,
        ),
        "take": lambda x: x.take((x * 9).long()),
        "scatter by product": lambda x: x.scatter(1, (x * 9).long(), x, reduce="multiply"),
        "index_copy": lambda x: x.index_copy(1, torch.tensor([3, 1]), x[:, :2]),
        "index_reduce": lambda x: x.index_reduce(1, torch.tensor([0, 0]), x[:, :2], "amax"),
        "index_fill": lambda x: x.index_fill(1, torch.tensor([0, 2]), torch.tensor(0.5)),
        "masked_scatter": lambda x: x.masked_scatter(x > 0.5, x * 0),
        "put": lambda x: x.put(torch.tensor([0, 3]), torch.tensor([1.0, 2.0])),
        "block_diag": lambda x: torch.block_diag(x[0], x[0, :2]),
        "cartesian_prod": lambda x: torch.cartesian_prod(x[0, 0], x[0, 1]),
        "column_stack": lambda x: torch.column_stack([x[0], x[0]]),
        "diag": lambda x: torch.diag(square(x)[0]) + torch.diagflat(x[0, 0])[0],
        "split": lambda x: torch.hsplit(x, 2)[1] + torch.vsplit(x.transpose(0, 1), [3, 6])[0][0, :, None],
        "sum_to_size": lambda x: x.sum_to_size(1, 16, 1),
    },
    "made of numbers": {
        "eye": lambda x: x + torch.eye(16, 4),
        "logspace": lambda x: x * torch.logspace(0, 1, 4),
        "windows": lambda x: x * torch.hann_window(4) * torch.hamming_window(4, False, 0.6) * torch.blackman_window(4),
        "more windows": lambda x: x + torch.bartlett_window(4, periodic=False) * torch.kaiser_window(4, True, 9.0),
        "new_empty": lambda x: x + x.new_empty(4).fill_(1),
        "empty_like": lambda x: torch.empty_like(x).copy_(x * 2),
        "fftfreq": lambda x: x * torch.fft.fftfreq(4) + torch.fft.rfftfreq(6),
    },
    "losses": {
        "mse": lambda x: F.mse_loss(x, x * 0.5, reduction="none"),
        "l1": lambda x: F.l1_loss(x, x * 0.5, reduction="none"),
        "smooth_l1": lambda x: F.smooth_l1_loss(x, x * 0, reduction="none"),
        "huber": lambda x: F.huber_loss(x, x * 0, reduction="none", delta=0.5),
        "bce": lambda x: F.binary_cross_entropy(x.clamp(0, 1), (x > 0.5).float(), reduction="none"),
        "bce with logits": lambda x: F.binary_cross_entropy_with_logits(x, (x > 0.5).float(), reduction="none"),
        "cross_entropy": lambda x: F.cross_entropy(x[..., 0], x[..., 1].argmax(1), reduction="none"),
        "nll": lambda x: F.nll_loss(x[..., 0], x[..., 1].argmax(1), reduction="none"),
        "kl_div": lambda x: F.kl_div(x.log(), x.softmax(1), reduction="none"),
        "margins": lambda x: F.triplet_margin_loss(x, x.flip(1), x * 2, reduction="none"),
    },
    "complex numbers in between": {
        "polar": lambda x: torch.view_as_real(
            torch.view_as_complex(x.reshape(-1, 16, 2, 2)) * torch.polar(torch.ones(2), torch.arange(2.0))
        ),
        "complex": lambda x: torch.complex(x, x.flip(1)).conj().abs() + torch.complex(x, x).angle(),
        "fft": lambda x: torch.fft.fft(x, dim=1).real + torch.fft.fft(x, dim=1).imag,
        "fft2": lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real + torch.fft.fft2(x).real,
        "rfft": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1) * 0.5, n=16, dim=1),
        "fftshift": lambda x: torch.fft.fftshift(torch.fft.ifft(x, dim=1), dim=1).real,
        "stft": lambda x: torch.stft(wave(x), 16, 8, window=torch.hann_window(16), return_complex=True).abs(),
    },
    "arithmetic on the batch's size": {
        "root": lambda x: x * (x.shape[0] ** 0.5),
        "square root": lambda x: x / torch.sym_sqrt(x.shape[0]),
        "power": lambda x: x * (x.shape[0] ** 3),
        "max": lambda x: x * max(x.shape[0], 3) + min(x.shape[0], 3),
        "float": lambda x: x + torch.sym_float(x.shape[0]) / 3,
        "int": lambda x: x * torch.sym_int(x.shape[0] / 2),
        "a quotient first": lambda x: (x.shape[0] / 3) - x,
        "a quotient chosen": lambda x: torch.where(x > 0.5, x.shape[0] / 3, x),
    },
    "in place": {
        "tril_": lambda x: (x * 1).tril_().log1p_(),
        "lerp_": lambda x: (x * 1).lerp_(x.flip(1), 0.3).nan_to_num_(),
        "remainder_": lambda x: (x * 9).remainder_(x + 1).fmod_(0.7),
        "floor_divide_": lambda x: (x * 9).floor_divide_(0.3).clip_(1, 20),
        "index_copy_": lambda x: (
            (x * 1).index_copy_(1, torch.tensor([3, 1]), x[:, :2]).index_fill_(1, torch.tensor(5), 2)
        ),
        "masked_scatter_": lambda x: (x * 1).masked_scatter_(x > 0.5, x * 0),
        "scatter_reduce_": lambda x: (x * 1).scatter_reduce_(1, (x * 9).long(), x, "amax"),
        "a column": lambda x: put(x * 1, (slice(None), 0), 0.0),
        "a window": lambda x: put(x * 1, (slice(None), slice(2, 9, 3), slice(1, None)), x[:, 5:8, 1:] * 2),
        "a column of an input's": lambda x: put(put(x * 1, (0, 1), 5.0), (slice(None), 1, 2), x[:, 0, 0]),
        "a part that is read again": lambda x: twice(x * 1),
        "another type": lambda x: put(x.half(), (slice(None), slice(0, 3)), x[:, :3].double()).float(),
        "kept in half": lambda x: x.half().remainder_(x.double() + 0.1).float(),
    },
    "cells and bags": {
        "lstm": lambda x, cell: cell(x[:, 0])[0],
        "gru": lambda x, cell: cell(x[:, 0]),
        "rnn": lambda x, cell: cell(x[:, 0]),
        "bag": lambda x, bag: bag((x * 5).long().flatten(1)),
        "mean_bag": lambda x, bag: bag((x * 5).long()[:, :, 0]),
        "weighed_bag": lambda x, bag: bag((x * 5).long()[:, :, 0], per_sample_weights=x[..., 1]),
        "rare_classes": lambda x, head: head.log_prob(x[..., 0]),
        "dropout": lambda x, drop: drop(x),
    },
}
MODULES: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTMCell(4, 8),
    "gru": lambda: nn.GRUCell(4, 8),
    "rnn": lambda: nn.RNNCell(4, 8),
    "bag": lambda: nn.EmbeddingBag(9, 4),
    "mean_bag": lambda: nn.EmbeddingBag(9, 4, mode="mean", padding_idx=2),
    "weighed_bag": lambda: nn.EmbeddingBag(9, 4, mode="sum"),
    "rare_classes": lambda: nn.AdaptiveLogSoftmaxWithLoss(16, 20, [5, 10]),
    "dropout": lambda: nn.FeatureAlphaDropout(),
}


def made(functions: Functions) -> nn.Module:
    torch.manual_seed(0)
    modules = {name: MODULES[name]() for name in functions if name in MODULES}
    return Each(functions, modules).eval().requires_grad_(False)


def exported(module: nn.Module, path: Path) -> Path:
    batch = torch.export.Dim("batch", min=1)
    torch.export.save(torch.export.export(module, (torch.randn(6, 16),), dynamic_shapes=({0: batch},)), path)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_the_whole_budget_gives_what_torchs_functions_give_bit_for_bit(kind: str, tmp_path: Path) -> None:
    module = made(KINDS[kind])
    master = rightrank.build(rightrank.read(exported(module, tmp_path / "m.pt2")), tmp_path / "master")
    rightrank.write(master, rightrank.plan(master, 1.0), tmp_path / "m.pt")
    written = torch.jit.load(tmp_path / "m.pt")  # type: ignore[no-untyped-call]
    wrong = []
    for batch in (1, 5, 64, 64):  # from the second call on torch optimises
        x = torch.randn(batch, 16)
        with torch.no_grad():
            results = zip(module(x).items(), written(x), strict=True)
        for (name, wanted), got in results:
            same = (wanted.shape, wanted.dtype) == (got.shape, got.dtype)
            if not same or not torch.equal(wanted, got) or (wanted.is_floating_point() and wanted.isnan().any()):
                wrong.append((name, batch))
    assert wrong == []


def test_no_operator_draws_random_numbers_or_writes_but_where_it_is_taken_care_of() -> None:
    """What normalisation makes still, or removes: dropout in its many forms."""
    stilled = ("dropout", "lstm", "gru", "rnn_", "rrelu", "scaled_dot_product", "batch_norm")
    for op in (each for each in ALLOWED if each.startswith("aten.")):
        _, name, overload = op.split(".")
        found = getattr(getattr(torch.ops.aten, name), overload)
        if not any(word in name for word in stilled):
            assert torch.Tag.nondeterministic_seeded not in found.tags, op
            assert found._schema.is_mutable == (op in IN_PLACE), op


FAR = torch.full((2, 3, 4, 4), 1 << 40)
BEYOND: dict[str, Callable[[Tensor], Any]] = {
    "max_unpool2d": lambda x: torch.ops.aten.max_unpool2d(x, FAR, [8, 8]),
    "max_unpool3d": lambda x: torch.ops.aten.max_unpool3d(x[None], FAR[None], [4, 8, 8], [2] * 3, [0] * 3),
    "searchsorted": lambda x: torch.searchsorted(x, x, sorter=FAR),
    "nll_loss": lambda x: F.nll_loss(x[0, 0], FAR[0, 0, 0]),
    "nll_loss2d": lambda x: F.nll_loss(x, FAR[:, 0]),
    "take": lambda x: x.take(FAR),
    "put": lambda x: x.put(FAR, x),
    "index_copy": lambda x: x.index_copy(3, FAR[0, 0, 0], x),
    "index_reduce": lambda x: x.index_reduce(3, FAR[0, 0, 0], x, "amax"),
    "index_fill": lambda x: x.index_fill(3, FAR[0, 0, 0], torch.tensor(0.0)),
    "scatter": lambda x: x.scatter(3, FAR, x, reduce="add"),
    "masked_scatter": lambda x: x.masked_scatter(x > -1, x[0]),
    "embedding_bag": lambda x: F.embedding_bag(FAR[0, 0], x[0, 0]),
    "bags beyond the ids": lambda x: F.embedding_bag(FAR[0, 0, 0] * 0, x[0, 0], torch.arange(0, 60, 20)),
    "lstm_cell": lambda x: torch.lstm_cell(x[0, 0], [x[0, 0]], x[0, 0], x[0, 0]),
    "fft": lambda x: torch.fft.rfft(x, dim=1 << 40),
}


@pytest.mark.parametrize("name", BEYOND)
def test_an_operator_looks_where_it_is_told_to_read_and_write(name: str) -> None:
    """Programs run outside the reader's sandbox: torch has to refuse this itself."""
    with pytest.raises((IndexError, RuntimeError)):
        BEYOND[name](torch.rand(2, 3, 4, 4))
