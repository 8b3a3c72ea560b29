"""A network that learns to do with few bases what the uploaded one does, without labels (ours).

The uploaded network teaches, on inputs that nobody has labelled: its outputs are to be given, and on the way
there what each of its layers puts out. A learner that comes from far has its activations brought, before each batch
norm, to the mean and variance that the teacher has there on the same inputs, so that at full size it is the teacher;
afterwards `statistics` says with which stored mean and variance a file does the same. One that is near already keeps
the statistics that it comes with, as a file does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from rightrank.models.errors import DataError
from rightrank.models.factor.factors import axis_of_bases, by_basis, in_call
from rightrank.models.factor.layer import Layer, factor_value
from rightrank.models.factor.sums import USABLE
from rightrank.models.master import entries
from rightrank.models.master.template import Template
from rightrank.models.master.variant import LayerFactors
from rightrank.models.measure.nearness import SAMPLES, Nearness, nearness, sound
from rightrank.models.program import execute
from rightrank.models.program.calls import HANDED, RECURRENT, BatchNorm
from rightrank.models.program.graph import Graph, Node, Ref
from rightrank.models.program.norms import Norm, moments, norms
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Batch, Samples
from rightrank.models.program.shapes import Classes

TINY = 1e-12

# For each batch norm (by the name of its call) the mean and variance, per channel, of what comes before it.
Statistics: TypeAlias = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Lesson:
    """What the teacher makes of a batch of `inputs`: `outputs`, the `moments` before each batch norm, and what
    each layer that is cut puts out, by the name of its call, with that one's variance."""

    inputs: Batch
    outputs: list[Tensor]
    moments: Statistics
    layers: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def sound(self, classes: Classes) -> Tensor:
        """Which of the samples have outputs that are numbers, (N,)."""
        rows = torch.ones(len(self.outputs[0]), dtype=torch.bool, device=self.outputs[0].device)
        for outputs in self.outputs:
            if outputs.is_floating_point():
                rows &= sound(outputs, classes and outputs.ndim == 2)
        return rows


class Student:
    """The factors and other parameters that learn, and the programs that they make.

    `original` is the template's program, whole, `factors` those of the layers that are cut. Of a layer without
    factors the whole weight learns. `start` replaces some of the whole tensors where the learning starts. With
    `settled`, batch norms keep the statistics that they start with.
    """

    def __init__(
        self,
        template: Template,
        original: Program,
        factors: LayerFactors,
        device: torch.device,
        start: Mapping[str, Tensor] | None = None,
        settled: bool = False,
    ) -> None:
        self.template = template
        self.device = device
        self.graph = template.graph
        self.norms = {} if settled else _norms(self.graph)
        self.learning = _training(self.graph, self.norms)
        apply = {node.name for node in self.graph.nodes if node.op != HANDED}
        self.watched = apply & {call for layer in template.decomposed for call in layer.calls}
        self.original = Program(self.graph, {name: original.tensors[name].to(device) for name in template.tensors})
        stored = self.original.tensors
        check_types(self.original)
        # Factors learn as matrices, a basis a row, where they have such rows: those are the `bases`.
        self.parameters: dict[str, Tensor] = {}
        self.bases: set[str] = set()
        self.factored = [layer for layer in template.decomposed if layer.weight in factors]
        # Of each of them, by its weight, the rank that its factors have.
        self.most: dict[str, int] = {}
        for layer in self.factored:
            given = factors[layer.weight]
            numbers = sum(factor.numel() for factor in given.values())
            self.most[layer.weight] = 1 + int(np.searchsorted(layer.params_by_rank, numbers))
            rows = {side: by_basis(layer, side, factor) for side, factor in given.items()}
            matrices = [side for side in rows if axis_of_bases(layer, side) is not None]
            if len(matrices) > 1:
                # Steps are about as large for all factors, so that the ends of a basis get the same norm.
                first, last = rows[matrices[0]], rows[matrices[-1]]
                balance = (last.norm(dim=1) / first.norm(dim=1).clamp_min(TINY)).clamp(1e-6, 1e6).sqrt().unsqueeze(1)
                rows |= {matrices[0]: first * balance, matrices[-1]: last / balance}
            for side, value in rows.items():
                self._learn(entries.factor(side, layer.name), value)
            self.bases |= {entries.factor(side, layer.name) for side in matrices}
        self.start = {**stored, **{name: value.to(device) for name, value in (start or {}).items()}}
        for name in sorted(self.graph.parameters - {layer.weight for layer in self.factored}):
            if self.start[name].is_floating_point():
                self._learn(name, self.start[name])

    def _learn(self, key: str, value: Tensor) -> None:
        self.parameters[key] = value.detach().clone().to(self.device).requires_grad_()

    def value(self, key: str) -> Tensor:
        """A parameter, as the programs have it."""
        return self.parameters[key]

    def program(self, ranks: Mapping[str, int] | None = None) -> Program:
        """The program as a function of the parameters: of each factored layer (by its weight) the first bases, as many
        as `ranks` says, or all."""
        tensors = self._whole()
        for layer, _, factors in self._prefixes(ranks):
            tensors[layer.weight] = layer.form.product(layer, factors)
        return Program(self.graph, tensors)

    def _whole(self) -> dict[str, Tensor]:
        return {name: self.value(name) if name in self.parameters else value for name, value in self.start.items()}

    def _prefixes(self, ranks: Mapping[str, int] | None) -> Iterator[tuple[Layer, int, dict[str, Tensor]]]:
        """Every factored layer with its rank and its factors, as their calls take them."""
        for layer in self.factored:
            values = {side: self.value(entries.factor(side, layer.name)) for side in layer.form.sides}
            kept = (ranks or {}).get(layer.weight) or self.most[layer.weight]
            factors = {}
            for side, shape in layer.factor_shapes(kept).items():
                value = values[side]
                whole = axis_of_bases(layer, side) is None
                leading = value[tuple(slice(size) for size in shape)] if whole else value[:kept]
                factors[side] = in_call(layer, side, leading)
            yield layer, kept, factors

    def learnt(self) -> dict[str, Tensor]:
        """What has been learnt so far, on the CPU: by the entries that a master has for them factors, as their calls
        take them, and tensors by their names."""
        found = self.state()
        for layer in self.factored:
            for side in layer.form.sides:
                name = entries.factor(side, layer.name)
                found[name] = in_call(layer, side, found[name]).contiguous()
        return found

    def factors(self) -> dict[str, dict[str, Tensor]]:
        """Those that have been learnt, on the CPU, by the weights of their layers."""
        learnt = self.learnt()
        return {
            layer.weight: {side: learnt[entries.factor(side, layer.name)] for side in layer.form.sides}
            for layer in self.factored
        }

    def state(self) -> dict[str, Tensor]:
        """The parameters as they are, on the CPU."""
        return {key: value.detach().cpu().contiguous() for key, value in self.parameters.items()}

    @torch.no_grad()
    def teach(self, inputs: Batch, layers: bool = False) -> Lesson:
        """The teacher's lesson on `inputs`; what its layers put out only with `layers`."""
        before: Statistics = {}
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def watch(node: Node, arguments: list[Any], result: Any) -> Any:
            if node.name in self.norms:
                before[node.name] = moments(arguments[0])
            if layers and node.name in self.watched:
                made = _made(result)
                if (spread := made.var(correction=0)) > TINY:
                    seen[node.name] = made, spread
            return result

        inputs = tuple(x.to(self.device) for x in inputs)
        outputs = self.original.run(inputs, visit=watch)
        return Lesson(inputs, outputs, before, seen)

    def run(self, ranks: Mapping[str, int] | None, lesson: Lesson, visit: execute.Visitor) -> list[Tensor]:
        """The outputs at these ranks (see `program`), each of the `norms`' input brought to the teacher's moments.

        Where factors are fewer numbers than their product, the layer is several calls, as in the file.
        """
        tensors = self._whole()
        split: dict[str, Layer] = {}
        for layer, rank, factors in self._prefixes(ranks):
            if rank > layer.break_even:
                tensors[layer.weight] = layer.form.product(layer, factors)
                continue
            tensors |= {factor_value(layer, side).name: factor for side, factor in factors.items()}
            split |= dict.fromkeys(layer.calls, layer)
        for name, norm in self.norms.items():
            mean, variance = lesson.moments[name]
            stored_mean, stored_variance = self.original.tensors[norm.mean], self.original.tensors[norm.variance]
            weight = tensors[norm.weight] if norm.weight else torch.ones_like(mean)
            bias = tensors[norm.bias] if norm.bias else torch.zeros_like(mean)
            scale = weight / (stored_variance + norm.epsilon).sqrt()
            tensors[f"scale of {name}"] = scale * (variance + norm.epsilon).sqrt()
            tensors[f"shift of {name}"] = bias + scale * (mean - stored_mean)
        return execute.run(_factored(self.learning, split), tensors, lesson.inputs, visit=visit)

    def loss(self, ranks: Mapping[str, int] | None, lesson: Lesson, measure: Nearness, hint: float) -> Tensor:
        """How far the outputs are from the teacher's, and `hint` times how far the layers' are: the squared
        difference as a share of the variance, the mean over layers."""
        missed: list[Tensor] = []

        def watch(node: Node, arguments: list[Any], result: Any) -> Any:
            if node.name in lesson.layers:
                wanted, spread = lesson.layers[node.name]
                missed.append((_made(result) - wanted).square().mean() / spread)
            return result

        outputs = self.run(ranks, lesson, watch)
        found = torch.stack([measure.distance(*pair) for pair in zip(outputs, lesson.outputs, strict=True)])
        return found.sum() + (hint * torch.stack(missed).mean() if missed else 0.0)

    @torch.no_grad()
    def answered(self, inputs: Samples, batch: int, classes: Classes) -> Samples:
        """Of `inputs`, taken `batch` at a time, those to which the teacher's outputs are numbers. Raises
        DataError where these do not fill a batch."""
        kept = []
        for group in inputs.apart():
            at_once = batch if len(inputs.groups) == 1 else min(batch, len(group))
            sound = [self.teach(each).sound(classes).cpu() for each in group.batches(at_once)]
            kept.append(group.of_rows(torch.cat(sound).nonzero().squeeze(1)) if sound else group[:0])
        found = Samples.together(kept)
        if len(found) < batch:
            raise DataError(
                f"The network's outputs are numbers for {len(found)} of {len(inputs)} calibration inputs only.", USABLE
            )
        return found

    def measure(self, data: Samples, batch: int, classes: Classes) -> Nearness:
        """What nearness to this teacher is, by some of the inputs."""
        return nearness(self.original, data[: max(SAMPLES, batch)].to(self.device), batch, classes)

    @torch.no_grad()
    def statistics(self, ranks: Mapping[str, int] | None, lessons: Sequence[Lesson]) -> dict[str, Tensor]:
        """The mean and variance with which each batch norm does for these ranks what `run` does, over `lessons`."""
        if not self.norms:
            return {}
        seen: list[Statistics] = []

        def watch(node: Node, arguments: list[Any], result: Any) -> Any:
            if node.name in self.norms:
                seen[-1][node.name] = moments(arguments[0])
            return result

        for lesson in lessons:
            seen.append({})
            self.run(ranks, lesson, watch)
        found = {}
        for name, norm in self.norms.items():
            mean, variance = _overall([each[name] for each in seen])
            teachers_mean, teachers_variance = _overall([lesson.moments[name] for lesson in lessons])
            ratio = (variance + norm.epsilon) / (teachers_variance + norm.epsilon)
            stored_mean, stored_variance = (self.original.tensors[name].double() for name in (norm.mean, norm.variance))
            found[norm.mean] = mean - (teachers_mean - stored_mean) * ratio.sqrt()
            found[norm.variance] = (stored_variance + norm.epsilon) * ratio - norm.epsilon
        return {name: value.float().cpu() for name, value in found.items()}


def _made(result: Any) -> Tensor:
    """What a layer's call puts out; a recurrent one also gives back its last state."""
    made: Tensor = result[0] if isinstance(result, tuple) else result
    return made


def check_types(program: Program) -> None:
    """Raises DataError where the program's numbers are of a type in which it is not trained."""
    found = {t.dtype for t in program.tensors.values() if t.is_floating_point()} - {torch.float32}
    if found:
        types = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise DataError(
            f"Only float32 networks can be tuned, and this one has tensors of {types}.",
            "Export the network in float32, or choose `effort=refit`, which takes other types too.",
        )


def _norms(graph: Graph) -> dict[str, Norm]:
    """The batch norms with stored statistics of their own, by the name of their call."""
    found = {node.name: norm for node, norm in norms(graph)}
    users = [norm.mean for norm in found.values()]
    return {name: norm for name, norm in found.items() if users.count(norm.mean) == 1}


def _training(graph: Graph, norms: Mapping[str, Norm]) -> Graph:
    """The same program with these batch norms on their batch's own statistics, their scale and shift given, and with
    recurrent calls that know that they are to have gradients, without dropout."""

    def change(node: Node) -> Node:
        if node.op in RECURRENT and len(node.args) == 9:
            return dataclasses.replace(node, args=(*node.args[:5], 0.0, True, *node.args[7:]))
        if node.name not in norms:
            return node
        call = dataclasses.replace(
            BatchNorm.of(node),
            weight=Ref(f"scale of {node.name}"),
            bias=Ref(f"shift of {node.name}"),
            running_mean=None,
            running_var=None,
            training=True,
        )
        return dataclasses.replace(node, args=call.args)

    extra = {f"{what} of {name}": f"{what} of {name}" for name in norms for what in ("scale", "shift")}
    return graph.replace(nodes=tuple(map(change, graph.nodes)), tensors={**graph.tensors, **extra})


def _factored(graph: Graph, split: Mapping[str, Layer]) -> Graph:
    """The same program with each call in `split`, by its name, as those that its layer's form puts in its place."""

    def calls(node: Node) -> tuple[Node, ...]:
        layer = split.get(node.name)
        return (node,) if layer is None else layer.form.calls(layer, node)

    values = [factor_value(layer, side).name for layer in split.values() for side in layer.form.sides]
    extra = {name: name for name in values}
    return graph.replace(
        nodes=tuple(each for node in graph.nodes for each in calls(node)), tensors={**graph.tensors, **extra}
    )


def _overall(batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and variance over batches of one size, from those of each."""
    means = torch.stack([mean.double() for mean, _ in batches])
    variances = torch.stack([variance.double() for _, variance in batches])
    return means.mean(0), variances.mean(0) + means.var(0, correction=0)
