"""Distillation: a student's training under way, its recipe, and what it does in each step (ours).

No labels: the teacher's outputs on a batch, half of it mixtures, are what the student learns from (see `student`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from rightrank.models.errors import DataError
from rightrank.models.improve.muon import Muon
from rightrank.models.improve.student import Student
from rightrank.models.program.samples import Batch, Samples
from rightrank.models.program.shapes import Classes

LARGEST_GRADIENT = 1.0
MUON, MOMENTUM = 4.0, 0.9

# The ranks of a network that learns (see `Student.program`), and its share of all parameters.
Draw: TypeAlias = tuple[Mapping[str, int] | None, float]


@dataclass(frozen=True)
class Recipe:
    """How to train: at a rate that rises over a twentieth of the steps and falls to zero.

    Factors learn by Muon, at `MUON` times the rate, all else by Adam.

    In each of `steps`, `students` networks learn from one batch of `batch` inputs. `hint` is the weight of the
    layers' outputs in the loss, at the beginning and for a network with all parameters: it is less in proportion
    for a smaller one, which cannot give them, and falls to zero evenly. `seconds` ends the training early,
    rate and hint falling accordingly. `classes` says what nearness is (see `nearness`).
    """

    steps: int
    students: int
    rate: float
    batch: int = 64
    hint: float = 5.0
    classes: Classes = True
    seconds: float | None = None
    seed: int = 0


class Training:
    """A training under way: the student, its optimizer, steps done and seconds spent."""

    def __init__(self, student: Student, recipe: Recipe) -> None:
        self.student, self.recipe = student, recipe
        factors = [value for key, value in student.parameters.items() if key in student.bases]
        rest = [value for key, value in student.parameters.items() if key not in student.bases]
        self.optimizers: list[torch.optim.Optimizer] = []
        if rest:
            self.optimizers.append(torch.optim.Adam(rest, lr=recipe.rate))
        if factors:
            self.optimizers.append(Muon(factors, lr=recipe.rate * MUON, momentum=MOMENTUM))
        self._rates = [(group, group["lr"]) for each in self.optimizers for group in each.param_groups]
        self.done, self.spent = 0, 0.0

    def state_of(self, value: Tensor) -> dict[Tensor, dict[str, Tensor]]:
        """What the optimizer of a parameter keeps of each of its parameters from step to step."""
        for optimizer in self.optimizers:
            if any(value is each for group in optimizer.param_groups for each in group["params"]):
                return optimizer.state
        raise KeyError(value)

    def go(
        self,
        data: Samples,
        batch: int,
        draw: Callable[[torch.Generator], Draw],
        progress: Callable[[int], None],
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """Do what is left of it, on inputs `data` (N, …) taken `batch` at a time.

        `draw` says what the next student is, `progress` hears the steps done before each one, and
        `after` is called after each. Inputs to which the teacher's outputs are no numbers are left out of their
        batch. A step whose gradient is not finite, as that of a norm is at an input that is all zeros, changes nothing.
        """
        student, recipe, parameters = self.student, self.recipe, list(self.student.parameters.values())
        measure = student.measure(data, batch, recipe.classes)
        began = time.monotonic() - self.spent
        while self.done < recipe.steps:
            part = self.done / recipe.steps
            if recipe.seconds is not None:
                part = max(part, (time.monotonic() - began) / recipe.seconds)
            if part >= 1:
                break
            progress(self.done)
            height = min(1.0, part * 20 + 1 / recipe.steps) * 0.5 * (1 + math.cos(math.pi * part))
            for group, rate in self._rates:
                group["lr"] = rate * height
            generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.done)
            lesson = student.teach(_mix(data, data.draw(batch, generator), generator), layers=recipe.hint > 0)
            if student.graph.batch is None and not bool((rows := lesson.sound(recipe.classes)).all()) and rows.any():
                lesson = student.teach(data.choose(lesson.inputs, rows), layers=recipe.hint > 0)
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            for _ in range(recipe.students):
                ranks, share = draw(generator)
                loss = student.loss(ranks, lesson, measure, recipe.hint * share * (1 - part))
                if not loss.requires_grad:
                    raise DataError("None of the network's outputs can teach.", "Return floating-point ones too.")
                (loss / recipe.students).backward()  # type: ignore[no-untyped-call]
            length = torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
            if length.isfinite():
                for optimizer in self.optimizers:
                    optimizer.step()
            self.done += 1
            self.spent = time.monotonic() - began
            after()


def device_of(name: str | None) -> torch.device:
    """The device called so; without a name a GPU where there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _mix(data: Samples, batch: Batch, generator: torch.Generator) -> Batch:
    """Half of a batch of `data` mixed with another sample of it: inputs that the teacher can label and nobody uploaded.
    Where one of them cannot be mixed, such as tokens, the batch as it is."""
    drawn = [x for x, batched in zip(batch, data.batched, strict=True) if batched]
    if not all(x.is_floating_point() for x in drawn):
        return batch
    count = len(drawn[0])
    share = torch.rand(count, generator=generator)
    share = torch.where(torch.rand(count, generator=generator) < 0.5, share, torch.ones(()))
    others = data.choose(batch, torch.randperm(count, generator=generator))

    def mixed(one: Tensor, other: Tensor) -> Tensor:
        each = share.reshape(-1, *(1,) * (one.dim() - 1))
        return each * one + (1 - each) * other

    pairs = zip(batch, others, data.batched, strict=True)
    return tuple(mixed(one, other) if batched else one for one, other, batched in pairs)
