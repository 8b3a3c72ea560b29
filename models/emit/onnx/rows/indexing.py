"""What stands at places that tensors say, and what is put there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rightrank.models.emit.onnx.nodes import END, Nodes
from rightrank.models.emit.onnx.rows.shapes import flatten
from rightrank.models.emit.onnx.values import Dim, Scalar, Size, Value, axis, broadcast, dim_of

Row = Callable[..., Any]
Indices = Sequence[Value | None]


def embedding(
    to: Nodes,
    weight: Value,
    indices: Value,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Value:
    return to.gather(weight, indices)


def index_select(to: Nodes, self: Value, dim: int, index: Value) -> Value:
    return to.gather(self, to.leading(index, 1), dim)


def gather(to: Nodes, self: Value, dim: int, index: Value, *, sparse_grad: bool = False) -> Value:
    return to.node(
        "GatherElements", self, to.cast(index, "int64"), dtype=self.dtype, shape=index.shape, axis=axis(dim, self.rank)
    )


def take_along_dim(to: Nodes, self: Value, indices: Value, dim: int | None = None) -> Value:
    if dim is None:
        return gather(to, flatten(to, self), 0, flatten(to, indices))
    place = axis(dim, self.rank)
    sizes = list(broadcast(self.shape, indices.shape))
    if any(not isinstance(size, int) for at, size in enumerate(sizes) if at != place):
        if self.shape[:place] != indices.shape[:place] or self.shape[place + 1 :] != indices.shape[place + 1 :]:
            raise to.refused("sizes that are broadcast have to be known")
        return gather(to, self, dim, indices)

    def spread(value: Value) -> Value:
        shape = tuple(value.shape[at] if at == place else size for at, size in enumerate(sizes))
        return to.expand(value, [1 if at == place else size for at, size in enumerate(sizes)], shape)  # type: ignore[misc]

    return gather(to, spread(self), dim, spread(indices))


def take(to: Nodes, self: Value, index: Value) -> Value:
    return to.gather(flatten(to, self), index)


def _numbers(to: Nodes, indices: Indices) -> list[Value | None]:
    """With the places of what is true instead of masks, one index for each of their dimensions."""
    found: list[Value | None] = []
    for index in indices:
        if index is None or index.dtype not in ("bool", "uint8"):
            found.append(None if index is None else to.cast(index, "int64"))
            continue
        places = to.node("NonZero", to.cast(index, "bool"), dtype="int64", shape=(index.rank, None))
        found += [to.gather(places, to.constant(dim, "int64")) for dim in range(index.rank)]
    return found


def index(to: Nodes, self: Value, indices: Indices) -> Value:
    numbers = _numbers(to, indices)
    dims = [dim for dim, each in enumerate(numbers) if each is not None]
    if not dims:
        return self
    if len(dims) == 1:
        only = numbers[dims[0]]
        assert only is not None
        return to.gather(self, only, dims[0])
    places, shape = _together(to, [each for each in numbers if each is not None])
    rest = [dim for dim in range(self.rank) if dim not in dims]
    value = to.permute(self, dims + rest)
    found = to.node("GatherND", value, places, dtype=self.dtype, shape=(*shape, *value.shape[len(dims) :]))
    if dims != list(range(dims[0], dims[0] + len(dims))) or not dims[0]:
        return found
    # Side by side, the result is where they were.
    rank, before = len(shape), dims[0]
    order = [*range(rank, rank + before), *range(rank), *range(rank + before, found.rank)]
    return to.permute(found, order)


def _together(to: Nodes, numbers: Sequence[Value]) -> tuple[Value, tuple[Dim, ...]]:
    """Indices broadcast to one shape, and side by side in a last dimension."""
    shape = broadcast(*(each.shape for each in numbers))
    if any(each.shape != shape for each in numbers) or None in shape:
        total: Value | None = None
        for each in numbers:
            total = each if total is None else to.add(to.mul(total, 0), to.mul(each, 0))
        assert total is not None
        zero = to.mul(total, 0)
        numbers = [to.add(zero, each) for each in numbers] if len(numbers) > 1 else numbers
    parts = [to.unsqueeze(each, -1) for each in numbers]
    return to.concat(parts, -1), shape


def index_put(to: Nodes, self: Value, indices: Indices, values: Value, accumulate: bool = False) -> Value:
    if len(indices) == 1 and indices[0] is not None and indices[0].dtype == "bool" and not values.shape:
        mask = to.unsqueeze(indices[0], *range(indices[0].rank, self.rank))
        if not accumulate:
            return to.where(mask, to.cast(values, self.dtype), self)
    numbers = _numbers(to, indices)
    dims = [dim for dim, each in enumerate(numbers) if each is not None]
    places, shape = _together(to, [each for each in numbers if each is not None])
    rest = [dim for dim in range(self.rank) if dim not in dims]
    order = dims + rest
    value = to.permute(self, order)
    rank = len(shape)
    adjacent = dims == list(range(dims[0], dims[0] + len(dims)))
    whole = (*shape, *value.shape[len(dims) :])
    updates = to.cast(values, self.dtype)
    if adjacent and dims[0]:
        # The values' dimensions are as those of the result of looking up: those before come first.
        before = dims[0]
        updates = to.leading(updates, rank + self.rank - len(dims))
        updates = to.permute(
            updates, [*range(before, before + rank), *range(before), *range(before + rank, updates.rank)]
        )
    updates = _spread_as(to, updates, places, value, len(dims), whole)
    wide = to.wide(value) if value.dtype != "bool" else value
    updates = to.cast(updates, wide.dtype)
    attributes = {"reduction": "add"} if accumulate else {}
    found = to.node("ScatterND", wide, places, updates, dtype=wide.dtype, shape=value.shape, **attributes)
    back = [order.index(dim) for dim in range(self.rank)]
    return to.permute(to.cast(found, self.dtype), back)


def _spread_as(to: Nodes, updates: Value, places: Value, value: Value, count: int, whole: tuple[Dim, ...]) -> Value:
    """To the shape of what they replace: the places' and that of the dimensions behind."""
    if updates.shape == whole and all(size is not None for size in whole):
        return updates
    behind = to.shape(value)
    own = to.slice(to.shape(places), 0, 0, -1, size=places.rank - 1)
    if value.rank > count:
        rest = to.slice(behind, 0, count, END, size=value.rank - count)
        own = to.concat([own, rest], 0)
    return to.node("Expand", updates, own, dtype=updates.dtype, shape=whole)


def _scattered(to: Nodes, value: Value, dim: int, index: Value, source: Value, **how: str) -> Value:
    place = axis(dim, value.rank)
    source = to.cast(source, value.dtype)
    if source.shape != index.shape:
        # Of more values than places the first count.
        for at in range(value.rank):
            if source.shape[at] != index.shape[at]:
                source = to.slice(source, at, 0, to.size(index, at), size=index.shape[at])
    wide = to.wide(value)
    found = to.node(
        "ScatterElements",
        wide,
        to.cast(index, "int64"),
        to.cast(source, wide.dtype),
        dtype=wide.dtype,
        shape=value.shape,
        axis=place,
        **how,
    )
    return to.cast(found, value.dtype)


def scatter(to: Nodes, self: Value, dim: int, index: Value, src: Value) -> Value:
    return _scattered(to, self, dim, index, src)


def scatter_value(to: Nodes, self: Value, dim: int, index: Value, value: Scalar) -> Value:
    return _scattered(to, self, dim, index, to.expand_as(to.cast(value, self.dtype), index, index.shape))


def scatter_add(to: Nodes, self: Value, dim: int, index: Value, src: Value) -> Value:
    return _scattered(to, self, dim, index, src, reduction="add")


REDUCTIONS = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}


def scatter_reduce(
    to: Nodes, self: Value, dim: int, index: Value, src: Value, reduce: str, *, include_self: bool = True
) -> Value:
    if reduce not in REDUCTIONS or not include_self:
        raise to.refused("only sums, products and extremes that take in what is there are scattered")
    return _scattered(to, self, dim, index, src, reduction=REDUCTIONS[reduce])


def _along(to: Nodes, value: Value, dim: int, index: Value, source: Value, **how: str) -> Value:
    """Slices of a source put at places along a dimension."""
    place = axis(dim, value.rank)
    moved = to.move(value, place, 0)
    updates = to.move(to.cast(source, value.dtype), place, 0)
    wide = to.wide(moved)
    places = to.unsqueeze(to.leading(index, 1), -1)
    found = to.node("ScatterND", wide, places, to.cast(updates, wide.dtype), dtype=wide.dtype, shape=moved.shape, **how)
    return to.move(to.cast(found, value.dtype), 0, place)


def index_add(to: Nodes, self: Value, dim: int, index: Value, source: Value, *, alpha: Scalar = 1) -> Value:
    scaled = source if alpha == 1 else to.mul(source, alpha)
    return _along(to, self, dim, index, scaled, reduction="add")


def index_copy(to: Nodes, self: Value, dim: int, index: Value, source: Value) -> Value:
    return _along(to, self, dim, index, source)


def index_fill(to: Nodes, self: Value, dim: int, index: Value, value: Scalar) -> Value:
    part = index_select(to, self, dim, index)
    return _along(to, self, dim, index, to.expand_as(to.cast(value, self.dtype), part, part.shape))


def one_hot(to: Nodes, self: Value, num_classes: int = -1) -> Value:
    if num_classes < 0:
        raise to.refused("the number of classes has to be known")
    depth, values = to.constant(num_classes, "int64"), to.constant([0, 1], "int64")
    return to.node("OneHot", self, depth, values, dtype="int64", shape=(*self.shape, num_classes), axis=-1)


def slice_scatter(
    to: Nodes,
    self: Value,
    src: Value,
    dim: int = 0,
    start: Size | None = None,
    end: Size | None = None,
    step: int = 1,
) -> Value:
    place = axis(dim, self.rank)
    size = self.shape[place]
    if step == 1 and isinstance(size, int) and not isinstance(start, Value) and not isinstance(end, Value):
        places = range(size)[start:end]
        if not len(places):
            return self
        parts = [to.cast(src, self.dtype)]
        if places.start:
            parts.insert(0, to.slice(self, place, 0, places.start, size=places.start))
        if places.stop < size:
            parts.append(to.slice(self, place, places.stop, size, size=size - places.stop))
        return to.concat(parts, place)
    count = to.size(self, place)
    numbers = to.range(0, count, 1, "int64", dim_of(count))
    chosen = to.slice(numbers, 0, 0 if start is None else start, END if end is None else end, step)
    return _along(to, self, place, chosen, src)


def select_scatter(to: Nodes, self: Value, src: Value, dim: int, index: Size) -> Value:
    place = axis(dim, self.rank)
    return _along(to, self, place, to.leading(to.cast(index, "int64"), 1), to.unsqueeze(src, place))


def masked_scatter(to: Nodes, self: Value, mask: Value, source: Value) -> Value:
    """The source's numbers, in order, where the mask is true: each mask's place says how many were before it."""
    value = to.expand_as(self, mask)
    where = to.expand_as(mask, value)
    flat = flatten(to, where)
    count = to.node(
        "CumSum",
        to.cast(flat, "int64"),
        to.constant(0, "int64"),
        dtype="int64",
        shape=flat.shape,
    )
    places = to.joint("Max", to.sub(count, 1), to.constant(0, "int64"))
    taken = to.gather(flatten(to, source), places)
    whole = to.node("Reshape", taken, to.shape(value), dtype=source.dtype, shape=value.shape)
    return to.where(where, whole, value)


def isin(
    to: Nodes, elements: Value, test_elements: Value, *, assume_unique: bool = False, invert: bool = False
) -> Value:
    same = to.compare("Equal", to.unsqueeze(elements, -1), flatten(to, test_elements))
    found = to.reduce("ReduceMax", to.cast(same, "int32"), [elements.rank], keep=False)
    truth = to.cast(found, "bool")
    return to.unary("Not", truth) if invert else truth


def bucketize(to: Nodes, self: Scalar, boundaries: Value, *, out_int32: bool = False, right: bool = False) -> Value:
    """How many boundaries are below, or not above where `right`."""
    value = to.cast(self, boundaries.dtype) if not isinstance(self, Value) else self
    below = to.compare("LessOrEqual" if right else "Less", boundaries, to.unsqueeze(value, -1))
    counted = to.reduce("ReduceSum", to.cast(below, "int64"), [value.rank], keep=False)
    return to.cast(counted, "int32" if out_int32 else "int64")


def isin_number(
    to: Nodes, elements: Value, test_element: Scalar, *, assume_unique: bool = False, invert: bool = False
) -> Value:
    found = to.compare("Equal", elements, test_element)
    return to.unary("Not", found) if invert else found


def scatter_by(to: Nodes, self: Value, dim: int, index: Value, src: Value, *, reduce: str) -> Value:
    return _scattered(to, self, dim, index, src, reduction=REDUCTIONS[reduce])


def scatter_number_by(to: Nodes, self: Value, dim: int, index: Value, value: Scalar, *, reduce: str) -> Value:
    source = to.expand_as(to.cast(value, self.dtype), index, index.shape)
    return _scattered(to, self, dim, index, source, reduction=REDUCTIONS[reduce])


def searchsorted(
    to: Nodes,
    sorted_sequence: Value,
    self: Value,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Value | None = None,
) -> Value:
    if sorter is not None:
        raise to.refused("what is searched has to be in order")
    ordered = sorted_sequence if sorted_sequence.rank == 1 else to.unsqueeze(sorted_sequence, -2)
    op = "LessOrEqual" if right or side == "right" else "Less"
    below = to.compare(op, ordered, to.unsqueeze(self, -1))
    counted = to.reduce("ReduceSum", to.cast(below, "int64"), [self.rank], keep=False)
    return to.cast(counted, "int32" if out_int32 else "int64")


ROWS: Mapping[str, Row] = {
    "aten.isin.Tensor_Scalar": isin_number,
    "aten.scatter.reduce": scatter_by,
    "aten.scatter.value_reduce": scatter_number_by,
    "aten.searchsorted.Tensor": searchsorted,
    "aten.embedding.default": embedding,
    "aten.index_select.default": index_select,
    "aten.gather.default": gather,
    "aten.take_along_dim.default": take_along_dim,
    "aten.take.default": take,
    "aten.index.Tensor": index,
    "aten.index_put.default": index_put,
    "aten.scatter.src": scatter,
    "aten.scatter.value": scatter_value,
    "aten.scatter_add.default": scatter_add,
    "aten.scatter_reduce.two": scatter_reduce,
    "aten.index_add.default": index_add,
    "aten.index_copy.default": index_copy,
    "aten.index_fill.int_Scalar": index_fill,
    "aten.index_fill.int_Tensor": index_fill,
    "aten.one_hot.default": one_hot,
    "aten.slice_scatter.default": slice_scatter,
    "aten.select_scatter.default": select_scatter,
    "aten.masked_scatter.default": masked_scatter,
    "aten.isin.Tensor_Tensor": isin,
    "aten.bucketize.Tensor": bucketize,
    "aten.bucketize.Scalar": bucketize,
}
