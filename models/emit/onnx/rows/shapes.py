"""What moves numbers and changes none: shapes, parts, and tensors put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rightrank.models.emit.onnx.nodes import END, Nodes
from rightrank.models.emit.onnx.values import Dim, Size, Value, axis, broadcast, dim_of, promoted, reshaped

Row = Callable[..., Any]


def same(to: Nodes, self: Value) -> Value:
    return self


def cloned(to: Nodes, self: Value, *, memory_format: object = None) -> Value:
    return self


def reshape(to: Nodes, self: Value, shape: Sequence[Size]) -> Value:
    wanted = [dim_of(each) for each in shape]
    missing = next((place for place, each in enumerate(shape) if each == -1), None)
    return to.reshape(self, list(shape), reshaped(self.shape, wanted, missing))


def view(to: Nodes, self: Value, size: Sequence[Size]) -> Value:
    return reshape(to, self, size)


def as_other(to: Nodes, self: Value, other: Value) -> Value:
    return to.node("Reshape", self, to.shape(other), dtype=self.dtype, shape=other.shape)


def flatten(to: Nodes, self: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    if not self.rank:
        return to.unsqueeze(self, 0)
    start, end = axis(start_dim, self.rank), axis(end_dim, self.rank)
    if start == end:
        return self
    inner = self.shape[start : end + 1]
    names = [size for size in inner if size != 1]
    if all(isinstance(size, int) for size in inner):
        total: Dim = math.prod(size for size in inner if isinstance(size, int))
    else:
        total = names[0] if len(names) == 1 else None
    shape = (*self.shape[:start], total, *self.shape[end + 1 :])
    # With one size left open there is nothing to be computed: the first free one outside stays by a zero.
    sizes: list[Size] = [
        size if isinstance(size, int) else 0 if at < start else -1 for at, size in enumerate(self.shape[:start])
    ]
    sizes.append(total if isinstance(total, int) and 0 not in sizes else -1)
    behind = [to.size(self, at) for at in range(end + 1, self.rank)]
    if sizes[-1] != -1 and any(isinstance(each, Value) for each in behind):
        behind = [each if isinstance(each, int) else -1 for each in behind]
        if behind.count(-1) > 1:
            behind = [to.size(self, at) for at in range(end + 1, self.rank)]
    return to.reshape(self, [*sizes, *behind], shape)


def ravel(to: Nodes, self: Value) -> Value:
    return flatten(to, self)


def unflatten(to: Nodes, self: Value, dim: int, sizes: Sequence[Size]) -> Value:
    place = axis(dim, self.rank)
    wanted = [dim_of(each) for each in sizes]
    missing = next((at for at, each in enumerate(sizes) if each == -1), None)
    inner = reshaped((self.shape[place],), wanted, missing)
    outside = [to.size(self, at) for at in range(self.rank)]
    shape = (*self.shape[:place], *inner, *self.shape[place + 1 :])
    return to.reshape(self, [*outside[:place], *sizes, *outside[place + 1 :]], shape)


def permute(to: Nodes, self: Value, dims: Sequence[int]) -> Value:
    return to.permute(self, [axis(dim, self.rank) for dim in dims])


def transpose(to: Nodes, self: Value, dim0: int, dim1: int) -> Value:
    return to.swap(self, dim0, dim1) if self.rank else self


def swapaxes(to: Nodes, self: Value, axis0: int, axis1: int) -> Value:
    return transpose(to, self, axis0, axis1)


def turned(to: Nodes, self: Value) -> Value:
    return to.permute(self, range(self.rank)[::-1])


def last_two(to: Nodes, self: Value) -> Value:
    return to.swap(self)


def movedim(to: Nodes, self: Value, source: int | Sequence[int], destination: int | Sequence[int]) -> Value:
    sources = [axis(dim, self.rank) for dim in ([source] if isinstance(source, int) else source)]
    targets = [axis(dim, self.rank) for dim in ([destination] if isinstance(destination, int) else destination)]
    placed = dict(zip(targets, sources, strict=True))
    rest = iter(dim for dim in range(self.rank) if dim not in sources)
    return to.permute(self, [placed[at] if at in placed else next(rest) for at in range(self.rank)])


def unsqueeze(to: Nodes, self: Value, dim: int) -> Value:
    return to.unsqueeze(self, dim)


def squeeze(to: Nodes, self: Value) -> Value:
    if any(not isinstance(size, int) for size in self.shape):
        raise to.refused("which dimensions are of one has to be known")
    return to.squeeze(self, *(at for at, size in enumerate(self.shape) if size == 1))


def squeeze_dims(to: Nodes, self: Value, dim: int | Sequence[int]) -> Value:
    dims = [axis(each, self.rank) for each in ([dim] if isinstance(dim, int) else dim)]
    if not self.rank:
        return self
    # A free size is none of one: a program that is exported with it free holds for others.
    return to.squeeze(self, *(each for each in dims if self.shape[each] == 1))


def expand(to: Nodes, self: Value, size: Sequence[Size], *, implicit: bool = False) -> Value:
    value = to.leading(self, len(size))
    sizes = [1 if each == -1 else each for each in size]
    shape = tuple(own if each == -1 else dim_of(each) for each, own in zip(size, value.shape, strict=True))
    return to.expand(value, sizes, shape)


def broadcast_to(to: Nodes, self: Value, size: Sequence[Size]) -> Value:
    return expand(to, self, size)


def expand_as(to: Nodes, self: Value, other: Value) -> Value:
    return to.expand_as(self, other)


def slice_of(
    to: Nodes, self: Value, dim: int = 0, start: Size | None = None, end: Size | None = None, step: int = 1
) -> Value:
    place = axis(dim, self.rank)
    size = self.shape[place]
    first, last = 0 if start is None else start, END if end is None else end
    if first == 0 and step == 1 and isinstance(last, int) and last >= (size if isinstance(size, int) else END):
        return self
    found: Dim = None
    if isinstance(size, int) and isinstance(first, int) and isinstance(last, int):
        found = len(range(size)[first:last:step])
    elif first == 0 and step == 1 and isinstance(last, Value):
        found = last.symbol
    return to.slice(self, place, first, last, step, found)


def narrow(to: Nodes, self: Value, dim: int, start: Size, length: Size) -> Value:
    if isinstance(start, Value) or isinstance(length, Value):
        return to.slice(self, dim, start, to.add(start, length), size=dim_of(length))
    end = start + length
    return to.slice(self, dim, start, END if start < 0 and end == 0 else end, size=length)


def select(to: Nodes, self: Value, dim: int, index: Size) -> Value:
    return to.gather(self, to.cast(index, "int64"), dim)


def split(to: Nodes, self: Value, split_size: Size, dim: int = 0) -> list[Value]:
    place = axis(dim, self.rank)
    size = self.shape[place]
    if isinstance(size, int) and isinstance(split_size, int):
        return parts(to, self, [min(split_size, size - at) for at in range(0, size, split_size)] or [0], place)
    found = []
    for number in range(to.outputs):
        start = number * split_size if isinstance(split_size, int) else to.mul(split_size, number)
        last = number + 1 == to.outputs
        end = END if last else start + split_size if isinstance(start, int) else to.add(start, split_size)  # type: ignore[operator]
        length = split_size if isinstance(split_size, int) and not last else None
        found.append(to.slice(self, place, start, end, size=length))
    return found


def parts(to: Nodes, value: Value, sizes: Sequence[Size], place: int) -> list[Value]:
    """Parts of these sizes, one behind the other."""
    if len(sizes) == 1:
        return [value]
    results = [(value.dtype, (*value.shape[:place], dim_of(size), *value.shape[place + 1 :])) for size in sizes]
    return list(to.several("Split", (value, to.vector(sizes)), results, axis=place))


def split_sizes(to: Nodes, self: Value, split_sizes: Sequence[Size], dim: int = 0) -> list[Value]:
    return parts(to, self, split_sizes, axis(dim, self.rank))


def split_with_sizes(to: Nodes, self: Value, split_size: Sequence[Size], dim: int = 0) -> list[Value]:
    return parts(to, self, split_size, axis(dim, self.rank))


def chunk(to: Nodes, self: Value, chunks: int, dim: int = 0) -> list[Value]:
    place = axis(dim, self.rank)
    size = self.shape[place]
    if isinstance(size, int):
        return split(to, self, max(1, -(-size // chunks)), place)
    # Of a free size there were as many when the program was exported. OpenVINO wants it to divide for a `Split`.
    return split(to, self, to.div(to.add(to.size(self, place), chunks - 1), chunks), place)


def tensor_split(to: Nodes, self: Value, sections: int, dim: int = 0) -> list[Value]:
    place = axis(dim, self.rank)
    size = self.shape[place]
    if not isinstance(size, int):
        raise to.refused("what is to be shared out has to have a size")
    return parts(to, self, [size // sections + (at < size % sections) for at in range(sections)], place)


def tensor_split_at(to: Nodes, self: Value, indices: Sequence[Size], dim: int = 0) -> list[Value]:
    edges: list[Size] = [0, *indices, END]
    place, size = axis(dim, self.rank), self.shape[axis(dim, self.rank)]
    found = []
    for start, end in zip(edges, edges[1:], strict=False):
        length = None
        if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
            length = len(range(size)[start:end])
        found.append(to.slice(self, place, start, end, size=length))
    return found


def unbind(to: Nodes, self: Value, dim: int = 0) -> list[Value]:
    return [to.gather(self, to.constant(number, "int64"), dim) for number in range(to.outputs)]


def cat(to: Nodes, tensors: Sequence[Value], dim: int = 0) -> Value:
    # An empty vector is nothing at all to torch, of whatever rank the others are.
    several = [each for each in tensors if each.shape != (0,)] or list(tensors[:1])
    dtype = promoted(*tensors)
    return to.concat([to.cast(each, dtype) for each in several], dim)


def stack(to: Nodes, tensors: Sequence[Value], dim: int = 0) -> Value:
    return cat(to, [to.unsqueeze(each, dim) for each in tensors], dim)


def hstack(to: Nodes, tensors: Sequence[Value]) -> Value:
    several = [to.leading(each, 1) for each in tensors]
    return cat(to, several, 0 if several[0].rank == 1 else 1)


def vstack(to: Nodes, tensors: Sequence[Value]) -> Value:
    return cat(to, [to.leading(each, 2) for each in tensors], 0)


def dstack(to: Nodes, tensors: Sequence[Value]) -> Value:
    several = [to.leading(each, 2) for each in tensors]
    return cat(to, [to.unsqueeze(each, 2) if each.rank == 2 else each for each in several], 2)


def column_stack(to: Nodes, tensors: Sequence[Value]) -> Value:
    several = [
        to.reshape(each, [-1, 1], (*each.shape, *(1,) * (2 - each.rank))) if each.rank < 2 else each for each in tensors
    ]
    return cat(to, several, 1)


def repeat(to: Nodes, self: Value, repeats: Sequence[Size]) -> Value:
    value = to.leading(self, len(repeats))
    if all(each == 1 for each in repeats):
        return value
    shape = tuple(_times(size, each) for size, each in zip(value.shape, repeats, strict=True))
    wide = to.wide(value)
    found = to.node("Tile", wide, to.vector(repeats), dtype=wide.dtype, shape=shape)
    return to.cast(found, value.dtype)


def _times(size: Dim, count: Size) -> Dim:
    if isinstance(count, Value):
        return count.symbol if size == 1 else None
    return size if count == 1 else size * count if isinstance(size, int) else None


def tile(to: Nodes, self: Value, dims: Sequence[Size]) -> Value:
    return repeat(to, self, [1] * (self.rank - len(dims)) + list(dims))


def repeat_interleave(
    to: Nodes, self: Value, repeats: Size, dim: int | None = None, *, output_size: Size | None = None
) -> Value:
    if dim is None:
        return repeat_interleave(to, flatten(to, self), repeats, 0)
    place = axis(dim, self.rank)
    apart = to.unsqueeze(self, place + 1)
    many = repeat(to, apart, [repeats if at == place + 1 else 1 for at in range(apart.rank)])
    sizes = [to.size(self, at) for at in range(self.rank)]
    shape = (*self.shape[:place], _times(self.shape[place], repeats), *self.shape[place + 1 :])
    return to.reshape(many, [*sizes[:place], -1, *sizes[place + 1 :]], shape)


def roll(to: Nodes, self: Value, shifts: Sequence[Size], dims: Sequence[int] = ()) -> Value:
    if not dims:
        flat = roll(to, flatten(to, self), shifts, (0,))
        return to.node("Reshape", flat, to.shape(self), dtype=self.dtype, shape=self.shape)
    value = self
    for shift, dim in zip(shifts, dims, strict=True):
        place = axis(dim, value.rank)
        size = value.shape[place]
        if isinstance(shift, Value):
            raise to.refused("how far is a number")
        if isinstance(size, int):
            shift %= max(size, 1)
        if not shift:
            continue
        shape = value.shape
        ends = [to.slice(value, place, -shift, END), to.slice(value, place, 0, -shift)]
        value = to.node("Concat", *ends, dtype=value.dtype, shape=shape, axis=place)
    return value


def flip(to: Nodes, self: Value, dims: Sequence[int]) -> Value:
    value = self
    for dim in dims:
        place = axis(dim, value.rank)
        value = to.slice(value, place, -1, -END, -1, value.shape[place])
    return value


def rot90(to: Nodes, self: Value, k: int = 1, dims: Sequence[int] = (0, 1)) -> Value:
    one, two = dims
    k %= 4
    if k == 0:
        return self
    if k == 2:
        return flip(to, self, (one, two))
    if k == 1:
        return to.swap(flip(to, self, (two,)), one, two)
    return flip(to, to.swap(self, one, two), (two,))


def triangle(to: Nodes, self: Value, diagonal: Size = 0) -> Value:
    return _triangle(to, self, diagonal, False)


def upper_triangle(to: Nodes, self: Value, diagonal: Size = 0) -> Value:
    return _triangle(to, self, diagonal, True)


def _triangle(to: Nodes, value: Value, diagonal: Size, upper: bool) -> Value:
    k = to.cast(diagonal, "int64")
    wide = value if value.dtype == "bool" else to.wide(value)
    if wide.dtype in ("int32", "bool"):
        wide = to.cast(wide, "int64")
    return to.cast(to.node("Trilu", wide, k, dtype=wide.dtype, shape=value.shape, upper=int(upper)), value.dtype)


def diagonal(to: Nodes, self: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    one, two = axis(dim1, self.rank), axis(dim2, self.rank)
    rows, columns = self.shape[one], self.shape[two]
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise to.refused("a diagonal is of sizes that are known")
    size = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    order = [at for at in range(self.rank) if at not in (one, two)] + [one, two]
    value = to.permute(self, order)
    sizes = [to.size(value, at) for at in range(value.rank - 2)]
    flat = to.reshape(value, [*sizes, rows * columns], (*value.shape[:-2], rows * columns))
    start = offset if offset >= 0 else -offset * columns
    places = to.constant([start + at * (columns + 1) for at in range(size)], "int64")
    return to.gather(flat, places, -1)


def diag_embed(to: Nodes, self: Value, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Value:
    size = self.shape[-1]
    if not isinstance(size, int):
        raise to.refused("a diagonal is of sizes that are known")
    whole = size + abs(offset)
    mask = to.constant([[column - row == offset for column in range(whole)] for row in range(whole)], "bool")
    padded = to.unsqueeze(self, -1)
    zero = to.constant(0, self.dtype)
    if offset:
        before = [0] * self.rank
        before[-1] = max(-offset, 0)
        after = [0] * self.rank
        after[-1] = max(offset, 0)
        pads = to.constant([*before, *after], "int64")
        wide = to.wide(self)
        shape = (*self.shape[:-1], whole)
        grown = to.node("Pad", wide, pads, dtype=wide.dtype, shape=shape)
        padded = to.unsqueeze(to.cast(grown, self.dtype), -1)
    found = to.where(mask, padded, zero)
    one, two = axis(dim1, found.rank), axis(dim2, found.rank)
    return movedim(to, found, (-2, -1), (one, two))


def unfold(to: Nodes, self: Value, dimension: int, size: int, step: int) -> Value:
    place = axis(dimension, self.rank)
    whole = self.shape[place]
    if not isinstance(whole, int):
        raise to.refused("windows are of a size that is known")
    starts = range(0, whole - size + 1, step)
    places = to.constant([[start + at for at in range(size)] for start in starts], "int64")
    found = to.gather(self, places, place)
    return to.move(found, place + 1, -1)


def meshgrid(to: Nodes, tensors: Sequence[Value]) -> list[Value]:
    return meshed(to, tensors, indexing="ij")


def meshed(to: Nodes, tensors: Sequence[Value], *, indexing: str) -> list[Value]:
    several = [to.leading(each, 1) for each in tensors]
    order = list(range(len(several)))
    if indexing == "xy" and len(order) > 1:
        order[:2] = [1, 0]
    placed = []
    for number, value in enumerate(several):
        at = order[number]
        placed.append(to.unsqueeze(value, *(place for place in range(len(several)) if place != at)))
    shape = broadcast(*(each.shape for each in placed))
    sizes: list[Size] = [0] * len(several)
    for number, value in enumerate(several):
        sizes[order[number]] = to.size(value, 0)
    return [to.expand(each, sizes, shape) for each in placed]


def broadcast_tensors(to: Nodes, tensors: Sequence[Value]) -> list[Value]:
    shape = broadcast(*(each.shape for each in tensors))
    if all(isinstance(size, int) for size in shape):
        sizes = [size for size in shape if isinstance(size, int)]
        return [to.expand(to.leading(each, len(shape)), sizes, shape) for each in tensors]
    several = [to.leading(each, len(shape)) for each in tensors]
    most = to.node("Max", *map(to.shape, several), dtype="int64", shape=(len(shape),))
    return [to.node("Expand", each, most, dtype=each.dtype, shape=shape) for each in several]


def _at_least(rank: int) -> Row:
    def row(to: Nodes, self: Value) -> Value:
        if rank == 3 and self.rank == 2:
            return to.unsqueeze(self, 2)
        if rank == 3 and self.rank == 1:
            return to.unsqueeze(self, 0, 2)
        return to.leading(self, rank)

    return row


def sum_to_size(to: Nodes, self: Value, size: Sequence[Size]) -> Value:
    lead = self.rank - len(size)
    dims = [*range(lead), *(lead + at for at, each in enumerate(size) if each == 1 and self.shape[lead + at] != 1)]
    if not dims:
        return self
    found = to.reduce("ReduceSum", self, dims, keep=True)
    return to.squeeze(found, *range(lead))


def _sections(place: int) -> Row:
    def row(to: Nodes, self: Value, sections: int) -> list[Value]:
        return tensor_split(to, self, sections, min(place, self.rank - 1) if place == 1 else place)

    return row


def _section_at(place: int) -> Row:
    def row(to: Nodes, self: Value, indices: Sequence[int]) -> list[Value]:
        return tensor_split_at(to, self, indices, min(place, self.rank - 1) if place == 1 else place)

    return row


def cartesian_prod(to: Nodes, tensors: Sequence[Value]) -> Value:
    if len(tensors) == 1:
        return tensors[0]
    return stack(to, [flatten(to, each) for each in meshed(to, tensors, indexing="ij")], 1)


def diag(to: Nodes, self: Value, diagonal: int = 0) -> Value:
    return diag_embed(to, self, diagonal) if self.rank == 1 else DIAGONAL(to, self, diagonal)


DIAGONAL = diagonal

ROWS: Mapping[str, Row] = {
    "aten.reshape.default": reshape,
    "aten.view.default": view,
    "aten._unsafe_view.default": view,
    "aten.view_as.default": as_other,
    "aten.reshape_as.default": as_other,
    "aten.permute.default": permute,
    "aten.t.default": turned,
    "aten.numpy_T.default": turned,
    **dict.fromkeys((f"aten.{name}.default" for name in ("mT", "mH", "adjoint")), last_two),
    "aten.ravel.default": ravel,
    "aten.flatten.using_ints": flatten,
    "aten.unflatten.int": unflatten,
    "aten.transpose.int": transpose,
    "aten.swapaxes.default": swapaxes,
    "aten.swapdims.default": transpose,
    **{f"aten.{name}.{of}": movedim for name in ("movedim", "moveaxis") for of in ("int", "intlist")},
    "aten.unsqueeze.default": unsqueeze,
    "aten.squeeze.default": squeeze,
    "aten.squeeze.dim": squeeze_dims,
    "aten.squeeze.dims": squeeze_dims,
    "aten.expand.default": expand,
    "aten.expand_as.default": expand_as,
    "aten.broadcast_to.default": broadcast_to,
    "aten.contiguous.default": cloned,
    "aten.clone.default": cloned,
    **dict.fromkeys(
        (f"aten.{name}.default" for name in ("alias", "detach", "lift_fresh_copy", "resolve_conj", "resolve_neg")),
        same,
    ),
    "aten.slice.Tensor": slice_of,
    "aten.narrow.default": narrow,
    "aten.select.int": select,
    "aten.split.Tensor": split,
    "aten.unsafe_split.Tensor": split,
    "aten.split.sizes": split_with_sizes,
    "aten.split_with_sizes.default": split_sizes,
    "aten.unsafe_split_with_sizes.default": split_sizes,
    "aten.chunk.default": chunk,
    "aten.unsafe_chunk.default": chunk,
    "aten.tensor_split.sections": tensor_split,
    "aten.tensor_split.indices": tensor_split_at,
    **{f"aten.{name}.int": _sections(place) for name, place in (("hsplit", 1), ("vsplit", 0), ("dsplit", 2))},
    **{f"aten.{name}.array": _section_at(place) for name, place in (("hsplit", 1), ("vsplit", 0), ("dsplit", 2))},
    "aten.unbind.int": unbind,
    "aten.cat.default": cat,
    "aten.concat.default": cat,
    "aten.concatenate.default": cat,
    "aten.stack.default": stack,
    "aten.hstack.default": hstack,
    "aten.vstack.default": vstack,
    "aten.row_stack.default": vstack,
    "aten.dstack.default": dstack,
    "aten.column_stack.default": column_stack,
    "aten.repeat.default": repeat,
    "aten.tile.default": tile,
    "aten.repeat_interleave.self_int": repeat_interleave,
    "aten.roll.default": roll,
    "aten.flip.default": flip,
    "aten.fliplr.default": lambda to, self: flip(to, self, (1,)),
    "aten.flipud.default": lambda to, self: flip(to, self, (0,)),
    "aten.rot90.default": rot90,
    "aten.tril.default": triangle,
    "aten.triu.default": upper_triangle,
    "aten.diagonal.default": diagonal,
    "aten.linalg_diagonal.default": lambda to, A, *, offset=0, dim1=-2, dim2=-1: diagonal(to, A, offset, dim1, dim2),
    "aten.diag_embed.default": diag_embed,
    "aten.diag.default": diag,
    "aten.unfold.default": unfold,
    "aten.meshgrid.default": meshgrid,
    "aten.meshgrid.indexing": meshed,
    "aten.broadcast_tensors.default": broadcast_tensors,
    **{f"aten.atleast_{rank}d.default": _at_least(rank) for rank in (1, 2, 3)},
    "aten.sum_to_size.default": sum_to_size,
    "aten.cartesian_prod.default": cartesian_prod,
}
