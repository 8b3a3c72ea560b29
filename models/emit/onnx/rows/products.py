"""Products of matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.values import Dim, Scalar, Shape, Value, broadcast

Row = Callable[..., Any]


def linear(to: Nodes, input: Value, weight: Value, bias: Value | None = None) -> Value:
    """With a weight (C_out, C_in), which is turned round where the inputs are no matrix: onnxruntime does that once."""
    outputs = weight.shape[:1]
    if input.rank == 2 and weight.rank == 2:
        shape = (input.shape[0], *outputs)
        return to.node("Gemm", input, weight, bias, dtype=input.dtype, shape=shape, transB=1)
    shape = (*input.shape[:-1], *outputs)
    found = to.matmul(input, to.swap(weight) if weight.rank == 2 else weight, shape)
    return found if bias is None else to.add(found, bias)


def matmul(to: Nodes, self: Value, other: Value) -> Value:
    return multiplied(to, self, other)


def multiplied(to: Nodes, one: Value, other: Value) -> Value:
    shape: list[Dim] = list(broadcast(one.shape[:-2], other.shape[:-2]))
    shape += [] if one.rank < 2 else [one.shape[-2]]
    shape += [] if other.rank < 2 else [other.shape[-1]]
    if one.floating:
        return to.matmul(one, other, tuple(shape))
    return to.cast(to.matmul(to.wide(one), to.wide(other), tuple(shape)), one.dtype)


def _product(second: str) -> Row:
    if second == "mat2":
        return lambda to, self, mat2: multiplied(to, self, mat2)
    if second == "vec":
        return lambda to, self, vec: multiplied(to, self, vec)
    return lambda to, self, tensor: multiplied(to, self, tensor)


def addmm(to: Nodes, self: Value, mat1: Value, mat2: Value, *, beta: Scalar = 1, alpha: Scalar = 1) -> Value:
    if self.floating and not isinstance(beta, Value) and not isinstance(alpha, Value):
        shape = (mat1.shape[0], mat2.shape[1])
        scales = {"alpha": float(alpha), "beta": float(beta)}
        return to.node("Gemm", mat1, mat2, self, dtype=self.dtype, shape=shape, **scales)
    return _added(to, self, mat1, mat2, beta, alpha)


def baddbmm(to: Nodes, self: Value, batch1: Value, batch2: Value, *, beta: Scalar = 1, alpha: Scalar = 1) -> Value:
    return _added(to, self, batch1, batch2, beta, alpha)


def addmv(to: Nodes, self: Value, mat: Value, vec: Value, *, beta: Scalar = 1, alpha: Scalar = 1) -> Value:
    return _added(to, self, mat, vec, beta, alpha)


def addbmm(to: Nodes, self: Value, batch1: Value, batch2: Value, *, beta: Scalar = 1, alpha: Scalar = 1) -> Value:
    product = to.reduce("ReduceSum", multiplied(to, batch1, batch2), [0], keep=False)
    return _sum(to, self, product, beta, alpha)


def addr(to: Nodes, self: Value, vec1: Value, vec2: Value, *, beta: Scalar = 1, alpha: Scalar = 1) -> Value:
    return _sum(to, self, outer(to, vec1, vec2), beta, alpha)


def _added(to: Nodes, added: Value, one: Value, other: Value, beta: Scalar, alpha: Scalar) -> Value:
    return _sum(to, added, multiplied(to, one, other), beta, alpha)


def _sum(to: Nodes, added: Value, product: Value, beta: Scalar, alpha: Scalar) -> Value:
    if not isinstance(beta, Value) and beta == 0:
        return product if alpha == 1 else to.mul(product, to.cast(alpha, product.dtype))
    product = product if alpha == 1 else to.mul(product, to.cast(alpha, product.dtype))
    return to.add(added if beta == 1 else to.mul(added, to.cast(beta, added.dtype)), product)


def outer(to: Nodes, self: Value, vec2: Value) -> Value:
    return to.mul(to.unsqueeze(self, 1), to.unsqueeze(vec2, 0))


def einsum(to: Nodes, equation: str, tensors: Sequence[Value], *, path: None = None) -> Value:
    equation = equation.replace(" ", "")
    given, arrow, result = equation.partition("->")
    terms = given.split(",")
    letters = sorted(set(given) - {",", "."})
    if not arrow:
        result = ("..." if "..." in given else "") + "".join(each for each in letters if given.count(each) == 1)
    sizes: dict[str, Dim] = {}
    spread: list[Shape] = []
    for term, value in zip(terms, tensors, strict=True):
        before, dots, after = term.partition("...")
        sizes |= {
            letter: size for letter, size in zip(before, value.shape, strict=False) if sizes.get(letter) in (None, 1)
        }
        places = range(value.rank - len(after), value.rank)
        sizes |= {
            letter: value.shape[at] for letter, at in zip(after, places, strict=True) if sizes.get(letter) in (None, 1)
        }
        if dots:
            spread.append(value.shape[len(before) : value.rank - len(after)])
    shape: list[Dim] = []
    before, dots, after = result.partition("...")
    shape += [sizes[letter] for letter in before]
    shape += broadcast(*spread) if dots else ()
    shape += [sizes[letter] for letter in after]
    return to.node("Einsum", *tensors, dtype=tensors[0].dtype, shape=tuple(shape), equation=f"{given}->{result}")


def dot(to: Nodes, self: Value, tensor: Value) -> Value:
    return multiplied(to, self, tensor)


def vecdot(to: Nodes, x: Value, y: Value, *, dim: int = -1) -> Value:
    product = to.mul(x, y)
    return to.reduce("ReduceSum", product, [dim % product.rank], keep=False)


def multi_dot(to: Nodes, tensors: Sequence[Value]) -> Value:
    return _chain(to, tensors)


def chain_matmul(to: Nodes, matrices: Sequence[Value]) -> Value:
    return _chain(to, matrices)


def _chain(to: Nodes, several: Sequence[Value]) -> Value:
    found = several[0]
    for each in several[1:]:
        found = multiplied(to, found, each)
    return found


def bilinear(to: Nodes, input1: Value, input2: Value, weight: Value, bias: Value | None = None) -> Value:
    shape = (*input1.shape[:-1], weight.shape[0])
    found = to.node("Einsum", input1, weight, input2, dtype=input1.dtype, shape=shape, equation="...i,oij,...j->...o")
    return found if bias is None else to.add(found, bias)


def tensordot(to: Nodes, self: Value, other: Value, dims_self: Sequence[int], dims_other: Sequence[int]) -> Value:
    names = "abcdefghijklmnopqrstuvwxyz"
    one, two = list(names[: self.rank]), list(names[self.rank : self.rank + other.rank])
    for mine, theirs in zip(dims_self, dims_other, strict=True):
        two[theirs % other.rank] = one[mine % self.rank]
    left = [each for each in one if each not in two]
    right = [each for each in two if each not in one]
    return einsum(to, f"{''.join(one)},{''.join(two)}->{''.join(left + right)}", (self, other))


def kron(to: Nodes, self: Value, other: Value) -> Value:
    rank = max(self.rank, other.rank)
    one, two = to.leading(self, rank), to.leading(other, rank)
    product = to.mul(to.unsqueeze(one, *range(1, 2 * rank, 2)), to.unsqueeze(two, *range(0, 2 * rank, 2)))
    sizes = [to.count(product, (2 * at, 2 * at + 1)) for at in range(rank)]
    return to.reshape(product, sizes, tuple(size if isinstance(size, int) else None for size in sizes))


ROWS: Mapping[str, Row] = {
    "aten.linear.default": linear,
    "aten.matmul.default": matmul,
    "aten.linalg_matmul.default": matmul,
    "aten.mm.default": _product("mat2"),
    "aten.bmm.default": _product("mat2"),
    "aten.mv.default": _product("vec"),
    "aten.dot.default": dot,
    "aten.vdot.default": lambda to, self, other: multiplied(to, self, other),
    "aten.inner.default": lambda to, self, other: (
        tensordot(to, self, other, [-1], [-1]) if self.rank and other.rank else to.mul(self, other)
    ),
    "aten.addmm.default": addmm,
    "aten.baddbmm.default": baddbmm,
    "aten.addmv.default": addmv,
    "aten.addbmm.default": addbmm,
    "aten.addr.default": addr,
    "aten.outer.default": outer,
    "aten.ger.default": outer,
    "aten.einsum.default": einsum,
    "aten.linalg_vecdot.default": vecdot,
    "aten.linalg_multi_dot.default": multi_dot,
    "aten.chain_matmul.default": chain_matmul,
    "aten.bilinear.default": bilinear,
    "aten.tensordot.default": tensordot,
    "aten.kron.default": kron,
}
