"""Weights that a program computes from stored tensors become stored themselves, so that their layers can be cut.

Weight norm, weight standardisation, an update of low rank that was never merged, one matrix split into the weights of
three layers: such calls read a computed value, and it has no ranks to choose from. What is computed from stored tensors
alone is the same for every input, so it is computed here, once. And x·W, with W stored inputs first, is the
linear layer of Wᵀ. A budget of 1 is still the program as it was uploaded (see `master.master`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rightrank.models.program.calls import LINEAR, Convolution, Linear, layer_call
from rightrank.models.program.graph import Argument, Graph, Node, Ref, fresh
from rightrank.models.program.program import Program
from rightrank.models.simplify.normalize.binding import bind, renamed

# Of a product's arguments by name: the input, the matrix, what is added.
_PRODUCTS = {
    "aten.matmul.default": ("self", "other", ""),
    "aten.mm.default": ("self", "mat2", ""),
    "aten.addmm.default": ("mat1", "mat2", "self"),
}
# No network that we know of computes so many weights, or in so many steps; the work grows with the product.
MOST = 4096


class Read(NamedTuple):
    """A value that is to be stored, or its transpose."""

    value: str
    transposed: bool


@dataclass(frozen=True)
class _Call:
    """A layer's call as it is to be, and its weight and bias where they have to be stored first."""

    node: Node
    weight: Read | None
    bias: Read | None

    @property
    def reads(self) -> tuple[Read, ...]:
        return tuple(read for read in (self.weight, self.bias) if read is not None)


@dataclass(frozen=True)
class Kept:
    """Weights that go on being computed from these stored tensors, and why."""

    made_of: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Folding:
    """The names of what is `stored` now, and what is `kept` as it was; for people and a model's description."""

    stored: tuple[str, ...] = ()
    kept: tuple[Kept, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fold(program: Program) -> tuple[Program, Folding]:
    """The same function with the weights and biases of all layers stored, where that takes no more parameters and no
    more bytes; the very `program` that was given where nothing is to be done.

    Layers that share a tensor are taken together or not at all. A new tensor has the name of one that it is made of,
    of as many numbers and dimensions, that nobody reads any more; else one beside it.
    """
    constants = _Constants(program.graph)
    calls = list(_calls(program, constants))
    if max(len(calls), len(constants.nodes)) > MOST:
        why = f"they, or the steps that compute them, are more than {MOST}"
        return program, Folding(kept=(Kept((), why),) if calls else ())
    kept: list[Kept] = []

    def only(groups: Iterable[_Group], good: Callable[[_Group], bool], why: str) -> list[_Group]:
        found = []
        for group in groups:
            if good(group):
                found.append(group)
            else:
                kept.append(Kept(tuple(sorted(group.sources)), why))
        return found

    more = "stored they would take more parameters or bytes"
    groups = only(_groups(calls, constants), lambda group: _bounded(group, program), more)
    computed = _computed(program, constants, groups)
    sound = "they are no finite floating-point numbers"
    groups = only(groups, lambda group: all(_sound(computed[read]) for read in group.made_of), sound)
    folded = _stored(program, groups, computed)
    fitting = only(groups, lambda group: folded.takes_no_more(group, program), more)
    if not fitting:
        return program, Folding(kept=tuple(kept))
    if len(fitting) < len(groups):
        folded = _stored(program, fitting, computed)
    return folded.program, Folding(tuple(sorted({*folded.names.values()})), tuple(kept))


class _Constants:
    """The values that do not depend on the inputs, and how they hang together."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self._maker: dict[str, Node | None] = dict.fromkeys(graph.tensors)
        for node in graph.nodes:
            if all(name in self._maker for name in node.inputs()):
                self.nodes.append(node)
                self._maker.update((name, node) for name in node.outputs if name)

    def __contains__(self, argument: Argument) -> bool:
        return isinstance(argument, Ref) and argument.name in self._maker

    def made_of(self, value: str) -> frozenset[str]:
        """The stored tensors that a value is computed from."""
        found, seen, left = set(), {value}, [value]
        while left:
            name = left.pop()
            if name in self.graph.tensors:
                found.add(self.graph.tensors[name])
            maker = self._maker[name]
            for other in () if maker is None else maker.inputs():
                if other not in seen:
                    seen.add(other)
                    left.append(other)
        return frozenset(found)

    def unstored(self, argument: Argument) -> Read | None:
        """A constant that is computed from stored tensors; what is made of numbers alone is no tensor of the
        program's, and stays a call."""
        if isinstance(argument, Ref) and argument.name not in self.graph.tensors and self.made_of(argument.name):
            return Read(argument.name, False)
        return None


def _calls(program: Program, constants: _Constants) -> Iterator[_Call]:
    """The calls of layers that would read something else."""
    for node in program.graph.nodes:
        turned = _turned(node, program.shapes) if node.op in _PRODUCTS else None
        node, transposed = turned or (node, None)
        layer = layer_call(node)
        if not isinstance(layer, (Linear, Convolution)) or layer.input in constants or layer.weight not in constants:
            continue
        if layer.bias is not None and layer.bias not in constants:
            continue
        call = _Call(node, transposed or constants.unstored(layer.weight), constants.unstored(layer.bias))
        if call.reads:
            yield call


def _turned(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Node, Read] | None:
    """A product as a linear layer of the matrix's transpose, and that transpose, if it is one."""
    bound = bind(node)
    inputs, matrix, added = (bound.get(name) for name in _PRODUCTS[node.op])
    shape = shapes.get(matrix.name) if isinstance(matrix, Ref) else None
    if not isinstance(matrix, Ref) or shape is None or len(shape) != 2:
        return None
    if (bound.get("beta", 1), bound.get("alpha", 1)) != (1, 1):
        return None
    if isinstance(added, Ref) and shapes.get(added.name) != shape[1:]:
        return None
    return Node(node.name, LINEAR, (inputs, matrix, added), (), node.outputs), Read(matrix.name, True)


@dataclass(frozen=True)
class _Group:
    """Calls that share stored tensors: what they read, and what each of that is computed from."""

    calls: tuple[_Call, ...]
    made_of: Mapping[Read, frozenset[str]]

    @property
    def sources(self) -> frozenset[str]:
        return frozenset[str]().union(*self.made_of.values())

    @property
    def weights(self) -> frozenset[Read]:
        return frozenset(call.weight for call in self.calls if call.weight is not None)


def _groups(calls: Iterable[_Call], constants: _Constants) -> list[_Group]:
    """The calls by what they are computed from; not those whose weights are made of no parameter."""
    found: list[_Group] = []
    for call in calls:
        made_of = {read: constants.made_of(read.value) for read in call.reads}
        if call.weight is not None and not made_of[call.weight] & constants.graph.parameters:
            continue
        group = _Group((call,), made_of)
        apart = []
        for other in found:
            if other.sources.isdisjoint(group.sources):
                apart.append(other)
            else:
                group = _Group((*other.calls, *group.calls), {**other.made_of, **group.made_of})
        found = [*apart, group]
    return found


def _bounded(group: _Group, program: Program) -> bool:
    """Whether there is any use in computing it. A weight may be read in two spellings, which count once later."""
    wanted = sum(math.prod(program.shapes[read.value]) for read in group.made_of)
    return wanted <= 2 * sum(program.tensors[name].numel() for name in group.sources & program.graph.parameters)


def _computed(program: Program, constants: _Constants, groups: Iterable[_Group]) -> dict[Read, Tensor]:
    """What all groups read; tensors that may share memory."""
    reads = [read for group in groups for read in group.made_of]
    part = program.graph.replace(nodes=tuple(constants.nodes), outputs=tuple(read.value for read in reads)).live()
    with torch.no_grad():
        # No call that is left reads an input; what is given in its place only says where to compute.
        found = Program(part.replace(inputs=part.inputs[:1]), program.tensors).run([torch.zeros(())])
    return {read: value.t() if read.transposed else value for read, value in zip(reads, found, strict=True)}


def _sound(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isfinite().all())


@dataclass(frozen=True)
class _Folded:
    """The program with what the groups read stored, by which names, and which tensors nobody reads any more."""

    program: Program
    names: Mapping[Read, str]
    gone: frozenset[str]

    def takes_no_more(self, group: _Group, unfolded: Program) -> bool:
        """Neither parameters nor bytes."""
        before, after = group.sources & self.gone, {self.names[read] for read in group.made_of}
        counts, sizes = [], []
        for names, of in ((before, unfolded), (after, self.program)):
            counts.append(sum(of.tensors[name].numel() for name in names & of.graph.parameters))
            sizes.append(sum(of.tensors[name].nbytes for name in names))
        return counts[1] <= counts[0] and sizes[1] <= sizes[0]


def _stored(program: Program, groups: Iterable[_Group], computed: Mapping[Read, Tensor]) -> _Folded:
    graph, tensors = program.graph, program.tensors
    made = {name for node in graph.nodes for name in node.outputs}
    taken = {*graph.tensors, *(spec.name for spec in graph.inputs), *made}
    same = {read: first for group in groups for read, first in _alike(group, computed).items()}
    values = {read: fresh(f"{read.value}_stored", taken) for read in dict.fromkeys(same.values())}
    instead = {
        call.node.name: renamed(call.node, {read.value: values[same[read]] for read in call.reads})
        for group in groups
        for call in group.calls
    }
    changed = graph.replace(nodes=tuple(instead.get(node.name, node) for node in graph.nodes)).live()
    gone = graph.read - changed.read
    kept = {name: tensor for name, tensor in tensors.items() if name not in gone}
    names: dict[Read, str] = {}
    parameters = graph.parameters - gone
    for group in groups:
        for read, sources in group.made_of.items():
            if same[read] not in names:
                # Those of parameters first, so that the new tensor has the name of one.
                ordered = sorted(sources, key=lambda name: (name not in graph.parameters, name))
                tensor = computed[read].clone(memory_format=torch.contiguous_format)
                names[same[read]] = name = _name(read, tensor, {each: tensors[each] for each in ordered}, kept)
                kept[name] = tensor
                parameters |= {name} if sources & graph.parameters else set()
            names[read] = names[same[read]]
    stored = {value: name for value, name in changed.tensors.items() if name not in gone}
    stored |= {value: names[read] for read, value in values.items()}
    return _Folded(Program(changed.replace(tensors=stored, parameters=parameters), kept), names, gone)


def _alike(group: _Group, computed: Mapping[Read, Tensor]) -> dict[Read, Read]:
    """For everything that a group reads, the first that is the same: a module that is called twice computes its weight
    twice, and a program may transpose one before each use. Of biases, equal ones are mostly just zero."""
    found: dict[Read, Read] = {}
    for read in group.made_of:
        tensor = computed[read]
        found[read] = next(
            (
                other
                for other in dict.fromkeys(found.values())
                if {read, other} <= group.weights
                and (computed[other].dtype, computed[other].shape) == (tensor.dtype, tensor.shape)
                and torch.equal(computed[other], tensor)
            ),
            read,
        )
    return found


def _name(read: Read, tensor: Tensor, made_of: Mapping[str, Tensor], taken: Mapping[str, Tensor]) -> str:
    for name, source in made_of.items():
        if name not in taken and (source.numel(), source.dim()) == (tensor.numel(), tensor.dim()):
            return name
    return fresh(f"{next(iter(made_of))}.{read.value}", {*taken, *made_of})
