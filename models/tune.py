"""Tune: one training, without labels, after which every prefix of a master works (ours).

The uploaded network teaches. At each step the networks at two drawn budgets learn to give its outputs,
through one set of factors that all sizes share. Before each batch norm the activations are brought to the
mean and variance that the teacher has there on the same inputs, so that nothing changes at full size;
afterwards what that comes to is stored for a number of sizes, the *knots*, so that a cut stays a copy.
On inputs held back it is then found up to which size the tuned factors are better than the plain cut; above
that size the cut is kept. The original's own tensors stay as they are.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import execute, variant
from models.correction import BATCH_NORM, statistics_of
from models.emit.template import Template, Tuned
from models.errors import DataError
from models.plan import Plan, Planner
from models.program import Graph, Node, Ref

Progress = Callable[[str, int, int, str], None]
STEPS = 600
KNOTS = 24
HELD, STATISTICS = 512, 512
EPSILON = 7
SAVE_EVERY = 25
LARGEST_GRADIENT = 1.0


# For each batch norm (by the name of its call) the mean and variance, per channel, of what comes before it.
Moments: TypeAlias = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Norm:
    """A batch norm: the names of its tensors, and its epsilon."""

    mean: str
    variance: str
    weight: str | None
    bias: str | None
    epsilon: float


@dataclass(frozen=True)
class Recipe:
    """How to train: Adam with a rate that rises over a twentieth of the steps and falls to zero.

    `seconds` ends the training early, the rate falling accordingly. Budgets are drawn between `smallest` and
    `largest`, evenly by their logarithm. `classes` says what nearness is (see `variant.distance`).
    """

    steps: int = STEPS
    batch: int = 64
    students: int = 2
    rate: float = 7e-3
    smallest: float = 0.05
    largest: float = 0.6
    classes: bool = True
    seconds: float | None = None
    seed: int = 0


def tune(
    folder: Path,
    inputs: Tensor,
    recipe: Recipe,
    *,
    state: Path,
    progress: Progress,
    saved: Callable[[], None] = lambda: None,
    device: str | None = None,
) -> list[dict[str, float]]:
    """Tune the master in `folder` on calibration `inputs` (N, …); what each knot came to.

    `state` is where the training is kept from time to time, and `saved` called each time; if it exists
    already, the training is taken up there.
    For each knot: parameters, and how far the outputs are from the original's on inputs held back, for the
    `cut` and `tuned`. Raises DataError where the data are too few or the program is not float32.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    planner = Planner.open(folder)
    template, stored = planner.template, load_file(folder / "master.safetensors")
    count = min(len(inputs) // 5, HELD)
    batch = template.graph.inputs[0].shape[0] or recipe.batch
    if batch < 2:
        raise DataError("A program for single samples cannot be tuned.", "Export it with a dynamic batch size.")
    if len(inputs) - count < batch or count < batch or not inputs.is_floating_point():
        raise DataError(
            f"Tuning needs at least {5 * batch} floating-point calibration inputs.", "Upload more; labels are not used."
        )
    held, data = inputs[:count], inputs[count:]
    student = Student(template, stored, where)
    original = {name: stored[f"dense/{name}"] for name in template.tensors}
    _train(student, planner, data, recipe, state, progress, saved, batch)
    knots = _knots(planner)
    taught = student.taught(data[:STATISTICS], batch)
    tables: list[dict[str, Tensor]] = []
    curve = []
    for index, knot in enumerate(knots):
        progress("settle", index, len(knots), "sizes")
        tables.append(student.statistics(knot.ranks, data[:STATISTICS], batch, taught))
        tuned = {name: value.detach().cpu() for name, value in student.program(knot.ranks).items()} | tables[-1]
        programs = [variant.tensors(template, stored, knot.ranks), tuned]
        errors = variant.distances(template.graph, original, programs, held, batch, recipe.classes)
        curve.append({"params": knot.params, "cut": errors[0], "tuned": errors[1]})
    below = _threshold(curve)
    names = student.changed()
    found = {f"tuned/{name}": tensor for name, tensor in names.items()}
    if tables:
        found |= {f"knots/{name}": torch.stack([table[name] for table in tables]) for name in tables[0]}
    save_file({**stored, **found}, folder / "master.safetensors")
    tuned_template = dataclasses.replace(
        template,
        tuned=Tuned(
            below=below,
            knots=tuple(knot.params for knot in knots),
            tensors=frozenset(name for name in names if not name.startswith(("down/", "up/"))),
            statistics=frozenset(tables[0] if tables else ()),
        ),
    )
    (folder / "template.json").write_text(json.dumps(tuned_template.to_json(), separators=(",", ":")))
    progress("settle", len(knots), len(knots), "sizes")
    return curve


class Student:
    """The factors and other parameters that learn, and the programs that they make."""

    def __init__(self, template: Template, stored: Mapping[str, Tensor], device: torch.device) -> None:
        self.template = template
        self.device = device
        self.graph = template.graph
        self.norms = _norms(self.graph)
        self.learning = _training(self.graph, self.norms)
        self.original = {name: stored[f"dense/{name}"].to(device) for name in template.tensors}
        if any(t.is_floating_point() and t.dtype != torch.float32 for t in self.original.values()):
            raise DataError("Only float32 networks can be tuned.", "Export the network in float32.")
        self.parameters: dict[str, Tensor] = {}
        for layer in template.decomposed:
            down, up = stored[f"down/{layer.name}"], stored[f"up/{layer.name}"]
            # Adam's steps are alike for all numbers, so both factors of a basis get the same norm.
            balance = (up.norm(dim=1) / down.norm(dim=1).clamp_min(1e-12)).clamp(1e-6, 1e6).sqrt().unsqueeze(1)
            self._learn(f"down/{layer.name}", down * balance)
            self._learn(f"up/{layer.name}", up / balance)
        weights = {layer.weight for layer in template.decomposed}
        for name in sorted(self.graph.parameters - weights):
            if self.original[name].is_floating_point():
                self._learn(name, self.original[name])

    def _learn(self, key: str, value: Tensor) -> None:
        self.parameters[key] = value.detach().clone().to(self.device).requires_grad_()

    def program(self, ranks: Sequence[int]) -> dict[str, Tensor]:
        """The program's tensors at a plan, as functions of the parameters."""
        tensors = {**self.original}
        tensors.update((name, self.parameters[name]) for name in self.parameters if name in tensors)
        for layer, rank in zip(self.template.decomposed, ranks, strict=True):
            down, up = self.parameters[f"down/{layer.name}"], self.parameters[f"up/{layer.name}"]
            kept = rank or layer.rank
            tensors[layer.weight] = (up[:kept].T @ down[:kept]).reshape(layer.shape)
        return tensors

    def changed(self) -> dict[str, Tensor]:
        """What a tuned master stores: factors, dense weights, other parameters."""
        with torch.no_grad():
            whole = self.program([0] * len(self.template.decomposed))
        kept = self.parameters | {layer.weight: whole[layer.weight] for layer in self.template.decomposed}
        return {key: value.detach().cpu().contiguous() for key, value in kept.items()}

    @torch.no_grad()
    def teach(self, images: Tensor) -> tuple[list[Tensor], Moments]:
        """The original's outputs, and mean and variance of what comes before each batch norm."""
        moments: Moments = {}

        def watch(node: Node, arguments: list[Any], result: Any) -> Any:
            if node.name in self.norms:
                moments[node.name] = _moments(arguments[0])
            return result

        return execute.run(self.graph, self.original, [images], visit=watch), moments

    def learn(self, ranks: Sequence[int], images: Tensor, taught: Moments, visit: Any = None) -> list[Tensor]:
        """The outputs at a plan, each batch norm's input brought to the moments that the teacher has there."""
        tensors = self.program(ranks)
        for name, norm in self.norms.items():
            mean, variance = taught[name]
            stored_mean, stored_variance = self.original[norm.mean], self.original[norm.variance]
            weight = tensors[norm.weight] if norm.weight else torch.ones_like(mean)
            bias = tensors[norm.bias] if norm.bias else torch.zeros_like(mean)
            scale = weight / (stored_variance + norm.epsilon).sqrt()
            tensors[f"scale of {name}"] = scale * (variance + norm.epsilon).sqrt()
            tensors[f"shift of {name}"] = bias + scale * (mean - stored_mean)
        return execute.run(self.learning, tensors, [images], visit=visit)

    def taught(self, inputs: Tensor, batch: int) -> list[Moments]:
        """The teacher's moments for each batch of `inputs`."""
        return [self.teach(images.to(self.device))[1] for images in variant.batches(inputs, batch)]

    @torch.no_grad()
    def statistics(
        self, ranks: Sequence[int], inputs: Tensor, batch: int, taught: Sequence[Moments]
    ) -> dict[str, Tensor]:
        """The mean and variance with which each batch norm does for a plan what `learn` does, over `inputs`."""
        seen: list[Moments] = []

        def watch(node: Node, arguments: list[Any], result: Any) -> Any:
            if node.name in self.norms:
                seen[-1][node.name] = _moments(arguments[0])
            return result

        for images, moments in zip(variant.batches(inputs, batch), taught, strict=True):
            seen.append({})
            self.learn(ranks, images.to(self.device), moments, watch)
        found = {}
        for name, norm in self.norms.items():
            mean, variance = _overall([moments[name] for moments in seen])
            teachers_mean, teachers_variance = _overall([moments[name] for moments in taught])
            ratio = (variance + norm.epsilon) / (teachers_variance + norm.epsilon)
            stored_mean, stored_variance = self.original[norm.mean].double(), self.original[norm.variance].double()
            found[norm.mean] = mean - (teachers_mean - stored_mean) * ratio.sqrt()
            found[norm.variance] = (stored_variance + norm.epsilon) * ratio - norm.epsilon
        return {name: value.float().cpu() for name, value in found.items()}


def _train(
    student: Student,
    planner: Planner,
    data: Tensor,
    recipe: Recipe,
    state: Path,
    progress: Progress,
    saved: Callable[[], None],
    batch: int,
) -> None:
    parameters = list(student.parameters.values())
    optimizer = torch.optim.Adam(parameters, lr=recipe.rate)
    done, spent = _load(student, optimizer, state)
    began = time.monotonic() - spent
    smallest = min(max(recipe.smallest, planner.smallest.params / planner.template.params), 1.0)
    largest = max(recipe.largest, smallest)
    while done < recipe.steps:
        part = done / recipe.steps
        if recipe.seconds is not None:
            part = max(part, (time.monotonic() - began) / recipe.seconds)
        if part >= 1:
            break
        progress("tune", done, recipe.steps, "steps")
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * min(1.0, part * 20 + 1 / recipe.steps) * 0.5 * (1 + math.cos(math.pi * part))
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + done)
        images = _mix(data[torch.randint(len(data), (batch,), generator=generator)], generator).to(student.device)
        wanted, taught = student.teach(images)
        optimizer.zero_grad()
        for _ in range(recipe.students):
            share = largest * (smallest / largest) ** float(torch.rand((), generator=generator))
            ranks = planner.plan(max_params=math.ceil(share * planner.template.params)).ranks
            outputs = student.learn(ranks, images, taught)
            losses = [variant.distance(a, b, recipe.classes) for a, b in zip(outputs, wanted, strict=True)]
            (torch.stack(losses).sum() / recipe.students).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        optimizer.step()
        done += 1
        if done % SAVE_EVERY == 0 or done == recipe.steps:
            _save(student, optimizer, state, done, time.monotonic() - began)
            saved()
    progress("tune", recipe.steps, recipe.steps, "steps")


def _mix(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the samples mixed with another one: inputs that the teacher can label and nobody uploaded."""
    share = torch.rand(len(images), generator=generator)
    share = torch.where(torch.rand(len(images), generator=generator) < 0.5, share, torch.ones(()))
    share = share.reshape(-1, *(1,) * (images.dim() - 1))
    return share * images + (1 - share) * images[torch.randperm(len(images), generator=generator)]


def _norms(graph: Graph) -> dict[str, Norm]:
    """The batch norms with stored statistics of their own, by the name of their call."""
    found: dict[str, Norm] = {}
    for node in graph.nodes:
        pair = statistics_of(graph, node) if node.op == BATCH_NORM else None
        if pair is None:
            continue
        weight, bias = (graph.tensors.get(a.name) if isinstance(a, Ref) else None for a in node.args[1:3])
        epsilon, given = node.args[EPSILON], [a is not None for a in node.args[1:3]]
        if given == [weight is not None, bias is not None] and isinstance(epsilon, float):
            found[node.name] = Norm(*pair, weight, bias, epsilon)
    users = [norm.mean for norm in found.values()]
    return {name: norm for name, norm in found.items() if users.count(norm.mean) == 1}


def _training(graph: Graph, norms: Mapping[str, Norm]) -> Graph:
    """The same program with these batch norms on their batch's own statistics, their scale and shift given."""

    def change(node: Node) -> Node:
        if node.name not in norms:
            return node
        given = (Ref(f"scale of {node.name}"), Ref(f"shift of {node.name}"))
        return dataclasses.replace(node, args=(node.args[0], *given, None, None, True, *node.args[6:]))

    extra = {f"{what} of {name}": f"{what} of {name}" for name in norms for what in ("scale", "shift")}
    return graph.replace(nodes=tuple(map(change, graph.nodes)), tensors={**graph.tensors, **extra})


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel (dimension 1) of (N, C, …)."""
    variance, mean = torch.var_mean(values, [0, *range(2, values.dim())], correction=0)
    return mean, variance


def _overall(moments: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and variance over batches of one size, from those of each."""
    means = torch.stack([mean.double() for mean, _ in moments])
    variances = torch.stack([variance.double() for _, variance in moments])
    return means.mean(0), variances.mean(0) + means.var(0, correction=0)


def _knots(planner: Planner) -> list[Plan]:
    """Plans at evenly spaced ratios of parameters, the smallest first; none of them leaves all layers dense."""
    least, whole = planner.smallest.params, planner.template.params
    sizes = [math.ceil(least * (whole / least) ** (step / KNOTS)) for step in range(KNOTS)]
    plans = {plan.digest: plan for size in sizes if any((plan := planner.plan(max_params=size)).ranks)}
    return sorted(plans.values(), key=lambda plan: plan.params)


def _threshold(curve: Sequence[Mapping[str, float]]) -> int:
    """The parameters up to which the tuned factors are used: where that makes the errors least, in ratio."""
    gains = [math.log(max(point["cut"], 1e-12)) - math.log(max(point["tuned"], 1e-12)) for point in curve]
    best, total, below = 0.0, 0.0, 0
    for point, gain in zip(curve, gains, strict=True):
        total += gain
        if total > best:
            best, below = total, int(point["params"])
    return below


def _save(student: Student, optimizer: torch.optim.Adam, path: Path, done: int, spent: float) -> None:
    tensors = {f"value/{key}": value.detach() for key, value in student.parameters.items()}
    for key, value in student.parameters.items():
        moments = optimizer.state.get(value, {})
        tensors |= {f"{name}/{key}": moments[name] for name in ("exp_avg", "exp_avg_sq") if name in moments}
    partial = path.with_suffix(".partial")
    save_file({k: v.cpu() for k, v in tensors.items()}, partial, {"done": str(done), "spent": str(spent)})
    partial.replace(path)


def _load(student: Student, optimizer: torch.optim.Adam, path: Path) -> tuple[int, float]:
    """Steps done and seconds spent, from a training kept at `path`; none where there is none."""
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as file:
        about = file.metadata()
    kept, done = load_file(path), int(about["done"])
    with torch.no_grad():
        for key, value in student.parameters.items():
            value.copy_(kept[f"value/{key}"])
            if f"exp_avg/{key}" in kept:
                optimizer.state[value] = {
                    "step": torch.tensor(float(done)),
                    "exp_avg": kept[f"exp_avg/{key}"].to(value.device),
                    "exp_avg_sq": kept[f"exp_avg_sq/{key}"].to(value.device),
                }
    return done, float(about["spent"])
