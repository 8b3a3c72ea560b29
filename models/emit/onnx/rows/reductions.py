"""What becomes of many numbers: sums, extremes, orders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rightrank.models.emit.onnx.nodes import END, Nodes
from rightrank.models.emit.onnx.values import Scalar, Size, Value, axes, axis, dim_of, without

Row = Callable[..., Any]
Dims = Sequence[int] | int | None


def _flat(to: Nodes, value: Value) -> Value:
    """In one dimension."""
    if value.rank == 1:
        return value
    sizes = [size for size in value.shape if isinstance(size, int)]
    total = 1
    for size in sizes:
        total *= size
    return to.reshape(value, [-1], (total if len(sizes) == value.rank else None,))


def sum_of(to: Nodes, self: Value, dim: Dims = None, keepdim: bool = False, *, dtype: str | None = None) -> Value:
    if dtype is None:
        dtype = self.dtype if self.floating else "int64"
    return to.reduce("ReduceSum", to.cast(self, dtype), axes(dim, self.rank), keepdim)


def sum_all(to: Nodes, self: Value, *, dtype: str | None = None) -> Value:
    return sum_of(to, self, dtype=dtype)


def mean_of(to: Nodes, self: Value, dim: Dims = None, keepdim: bool = False, *, dtype: str | None = None) -> Value:
    value = to.cast(self, dtype) if dtype else to.single(self)
    return to.reduce("ReduceMean", value, axes(dim, value.rank), keepdim)


def mean_all(to: Nodes, self: Value, *, dtype: str | None = None) -> Value:
    return mean_of(to, self, dtype=dtype)


def product_all(to: Nodes, self: Value, *, dtype: str | None = None) -> Value:
    return _product(to, self, None, False, dtype)


def product_of(to: Nodes, self: Value, dim: int, keepdim: bool = False, *, dtype: str | None = None) -> Value:
    return _product(to, self, dim, keepdim, dtype)


def _product(to: Nodes, value: Value, dim: Dims, keep: bool, dtype: str | None) -> Value:
    value = to.cast(value, dtype or (value.dtype if value.floating else "int64"))
    return to.reduce("ReduceProd", value, axes(dim, value.rank), keep)


def moments(to: Nodes, value: Value, dim: Dims, correction: Scalar | None, keep: bool) -> tuple[Value, Value]:
    """Variance and mean."""
    dims = axes(dim, value.rank)
    mean = to.reduce("ReduceMean", value, dims, keep=True)
    centred = to.sub(value, mean)
    less = 1 if correction is None else correction
    count = to.count(value, dims)
    squares = to.mul(centred, centred)
    if less == 0:
        variance = to.reduce("ReduceMean", squares, dims, keep)
    else:
        divisor = to.cast(to.sub(count, less) if isinstance(count, Value) else _positive(count, less), value.dtype)
        variance = to.div(to.reduce("ReduceSum", squares, dims, keep), divisor)
    return variance, mean if keep else to.squeeze(mean, *dims)


def _positive(count: int, less: Scalar) -> float:
    assert not isinstance(less, Value)
    return max(0.0, float(count - less))


def _spread_over(root: bool, mean: bool) -> Row:
    def row(
        to: Nodes,
        self: Value,
        dim: Dims = None,
        *,
        correction: Scalar | None = None,
        keepdim: bool = False,
    ) -> Any:
        variance, middle = moments(to, self, dim, correction, keepdim)
        found = to.unary("Sqrt", variance) if root else variance
        return (found, middle) if mean else found

    return row


def _spread(root: bool, mean: bool) -> Row:
    """The form with a truth in the place of a correction."""

    def row(to: Nodes, self: Value, unbiased: bool = True) -> Any:
        variance, middle = moments(to, self, None, int(unbiased), False)
        found = to.unary("Sqrt", variance) if root else variance
        return (found, middle) if mean else found

    return row


def _spread_of(root: bool, mean: bool) -> Row:
    def row(to: Nodes, self: Value, dim: Dims, unbiased: bool = True, keepdim: bool = False) -> Any:
        variance, middle = moments(to, self, dim, int(unbiased), keepdim)
        found = to.unary("Sqrt", variance) if root else variance
        return (found, middle) if mean else found

    return row


def extreme(to: Nodes, op: str, value: Value, dim: Dims, keep: bool) -> Value:
    wide = to.wide(value) if value.dtype in ("bool", "int16") else value
    return to.cast(to.reduce(op, wide, axes(dim, value.rank), keep), value.dtype)


def _extreme(op: str) -> Row:
    def row(to: Nodes, self: Value, dim: Dims = (), keepdim: bool = False) -> Value:
        return extreme(to, op, self, dim, keepdim)

    return row


def _extreme_all(op: str) -> Row:
    return lambda to, self: extreme(to, op, self, None, False)


def _extreme_and_place(op: str, place: str) -> Row:
    def row(to: Nodes, self: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
        return extreme(to, op, self, dim, keepdim), at_extreme(to, place, self, dim, keepdim)

    return row


def aminmax(to: Nodes, self: Value, *, dim: int | None = None, keepdim: bool = False) -> tuple[Value, Value]:
    return extreme(to, "ReduceMin", self, dim, keepdim), extreme(to, "ReduceMax", self, dim, keepdim)


def at_extreme(to: Nodes, op: str, value: Value, dim: int | None, keep: bool) -> Value:
    """The first place of the largest or the smallest."""
    if value.dtype in ("int64", "int16", "bool"):
        value = to.cast(value, "float64" if value.dtype == "int64" else "int32")
    if dim is None:
        rank = value.rank
        found = at_extreme(to, op, _flat(to, value), 0, False)
        return to.unsqueeze(found, *range(rank)) if keep else found
    if not value.rank:
        return to.constant(0, "int64")
    place = axis(dim, value.rank)
    shape = without(value.shape, [place], keep)
    return to.node(op, value, dtype="int64", shape=shape, axis=place, keepdims=int(keep))


def _place(op: str) -> Row:
    def row(to: Nodes, self: Value, dim: int | None = None, keepdim: bool = False) -> Value:
        return at_extreme(to, op, self, dim, keepdim)

    return row


def _truth(every: bool) -> Row:
    def row(to: Nodes, self: Value, dim: Dims = None, keepdim: bool = False) -> Value:
        truth = to.cast(to.cast(self, "bool"), "int32")
        found = to.reduce("ReduceMin" if every else "ReduceMax", truth, axes(dim, self.rank), keepdim)
        return to.cast(found, "bool")

    return row


def _truth_all(every: bool) -> Row:
    return lambda to, self: _truth(every)(to, self)


def count_nonzero(to: Nodes, self: Value, dim: Dims = None) -> Value:
    there = to.cast(to.cast(self, "bool"), "int64")
    return to.reduce("ReduceSum", there, axes(dim, self.rank), keep=False)


def cumsum(to: Nodes, self: Value, dim: int, *, dtype: str | None = None) -> Value:
    value = to.cast(self, dtype or (self.dtype if self.floating else "int64"))
    if not value.rank:
        return value
    place = to.constant(axis(dim, value.rank), "int64")
    return to.node("CumSum", value, place, dtype=value.dtype, shape=value.shape)


def logsumexp(to: Nodes, self: Value, dim: Dims, keepdim: bool = False) -> Value:
    return to.reduce("ReduceLogSumExp", to.single(self), axes(dim, self.rank), keepdim)


def topk(
    to: Nodes, self: Value, k: Size, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, Value]:
    return ordered(to, self, k, dim, largest, sorted)


def ordered(
    to: Nodes, value: Value, count: Size, dim: int, largest: bool, in_order: bool = True
) -> tuple[Value, Value]:
    """The first `count` of an order along a dimension, and where they were."""
    dtype = value.dtype
    wide = to.wide(value)
    place = axis(dim, value.rank)
    size = dim_of(count)
    shape = (*value.shape[:place], size, *value.shape[place + 1 :])
    found, places = to.several(
        "TopK",
        (wide, to.vector(count)),
        ((wide.dtype, shape), ("int64", shape)),
        axis=place,
        largest=int(largest),
        sorted=int(in_order),
    )
    return to.cast(found, dtype), places


def sort(to: Nodes, self: Value, dim: int = -1, descending: bool = False) -> tuple[Value, Value]:
    return ordered(to, self, to.size(self, axis(dim, self.rank)), dim, descending)


def stable_sort(
    to: Nodes, self: Value, *, stable: bool | None, dim: int = -1, descending: bool = False
) -> tuple[Value, Value]:
    return sort(to, self, dim, descending)


def argsort(to: Nodes, self: Value, dim: int = -1, descending: bool = False) -> Value:
    return sort(to, self, dim, descending)[1]


def stable_argsort(to: Nodes, self: Value, *, stable: bool, dim: int = -1, descending: bool = False) -> Value:
    return sort(to, self, dim, descending)[1]


def msort(to: Nodes, self: Value) -> Value:
    return sort(to, self, 0)[0]


def kthvalue(to: Nodes, self: Value, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Value, Value]:
    found = ordered(to, self, k, dim, largest=False)
    return _last(to, found, dim, keepdim)


def median_of(to: Nodes, self: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    """The lower one of two in the middle."""
    size = to.size(self, axis(dim, self.rank))
    if isinstance(size, Value):
        raise to.refused("the median is of a size that is known")
    return _last(to, ordered(to, self, (size + 1) // 2, dim, largest=False), dim, keepdim)


def median(to: Nodes, self: Value) -> Value:
    return median_of(to, _flat(to, self), 0)[0]


def _last(to: Nodes, found: tuple[Value, Value], dim: int, keep: bool) -> tuple[Value, Value]:
    parts = [to.slice(each, dim, -1, END, size=1) for each in found]
    one, two = parts if keep else [to.squeeze(each, dim) for each in parts]
    return one, two


def diff(
    to: Nodes, self: Value, n: int = 1, dim: int = -1, prepend: Value | None = None, append: Value | None = None
) -> Value:
    value = to.concat([each for each in (prepend, self, append) if each is not None], dim)
    for _ in range(n):
        size = value.shape[axis(dim, value.rank)]
        less = size - 1 if isinstance(size, int) else None
        after = to.slice(value, dim, 1, END, size=less)
        before = to.slice(value, dim, 0, -1, size=less)
        if value.dtype == "bool":
            value = to.joint("Xor", after, before, wide=False)
        else:
            value = to.sub(after, before)
    return value


def _without_nan(mean: bool) -> Row:
    def row(to: Nodes, self: Value, dim: Dims = None, keepdim: bool = False, *, dtype: str | None = None) -> Value:
        value = to.cast(self, dtype) if dtype else self
        none = to.node("IsNaN", value, dtype="bool", shape=value.shape)
        total = sum_of(to, to.where(none, to.constant(0.0, value.dtype), value), dim, keepdim)
        if not mean:
            return total
        there = sum_of(to, to.cast(to.unary("Not", none), value.dtype), dim, keepdim)
        return to.div(total, there)

    return row


def trace(to: Nodes, self: Value) -> Value:
    rows, columns = (to.range(0, to.size(self, dim), 1, "int64", self.shape[dim]) for dim in (0, 1))
    same = to.compare("Equal", to.unsqueeze(rows, 1), to.unsqueeze(columns, 0))
    return sum_all(to, to.where(same, self, to.constant(0, self.dtype)))


_LARGEST, _SMALLEST = ("ReduceMax", "ArgMax"), ("ReduceMin", "ArgMin")

ROWS: Mapping[str, Row] = {
    "aten.sum.default": sum_all,
    "aten.sum.dim_IntList": sum_of,
    "aten.mean.default": mean_all,
    "aten.mean.dim": mean_of,
    "aten.prod.default": product_all,
    "aten.prod.dim_int": product_of,
    **{
        f"aten.{name}.{of}": made(root, mean)
        for name, root, mean in (
            ("var", False, False),
            ("std", True, False),
            ("var_mean", False, True),
            ("std_mean", True, True),
        )
        for of, made in (("default", _spread), ("dim", _spread_of), ("correction", _spread_over))
    },
    "aten.amax.default": _extreme("ReduceMax"),
    "aten.amin.default": _extreme("ReduceMin"),
    "aten.aminmax.default": aminmax,
    "aten.max.default": _extreme_all("ReduceMax"),
    "aten.min.default": _extreme_all("ReduceMin"),
    "aten.max.dim": _extreme_and_place(*_LARGEST),
    "aten.min.dim": _extreme_and_place(*_SMALLEST),
    "aten.argmax.default": _place("ArgMax"),
    "aten.argmin.default": _place("ArgMin"),
    **{f"aten.{name}.default": _truth_all(every) for name, every in (("any", False), ("all", True))},
    **{f"aten.{name}.{of}": _truth(every) for name, every in (("any", False), ("all", True)) for of in ("dim", "dims")},
    "aten.count_nonzero.default": count_nonzero,
    "aten.count_nonzero.dim_IntList": count_nonzero,
    "aten.cumsum.default": cumsum,
    "aten.logsumexp.default": logsumexp,
    "aten.topk.default": topk,
    "aten.sort.default": sort,
    "aten.sort.stable": stable_sort,
    "aten.argsort.default": argsort,
    "aten.argsort.stable": stable_argsort,
    "aten.msort.default": msort,
    "aten.kthvalue.default": kthvalue,
    "aten.median.default": median,
    "aten.median.dim": median_of,
    "aten.diff.default": diff,
    "aten.nansum.default": _without_nan(False),
    "aten.nanmean.default": _without_nan(True),
    "aten.trace.default": trace,
}
