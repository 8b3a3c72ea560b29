"""Nearness: how far a variant's outputs are from the original's, as one number (ours).

Of classes it is the Kullback-Leibler divergence of their probabilities, at a temperature. A network that fits its
training images is sure of every one of them, and its probabilities then say next to nothing of what it will make of
others; raised to a temperature they do (Hinton et al., arXiv:1503.02531).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.program.shapes import Classes, class_axis, scores

TINY = 1e-12
# Of the logarithm of a probability that is zero, as of a class that is masked.
LOWEST = -1e4
# The original's probabilities shall have so much of the entropy that they could have at most, on average.
ENTROPY = 0.2
HOTTEST, HALVINGS = 16.0, 20
SAMPLES = 512
# Of a batch's scores no more than about so many numbers are looked at to find the temperature.
NUMBERS = 1 << 20


@dataclass(frozen=True)
class Nearness:
    """With `classes`, for outputs (N, C), or (N, …) that have classes at each place, `temperature` times the divergence
    of the classes' probabilities at that temperature, the outputs being their logits, or the probabilities themselves
    where they are that. Otherwise the squared difference, as a share of how much the wanted outputs vary from sample to
    sample, or of their square where there is one sample. `axes`: which axis of each shape of outputs has the classes,
    by the number of its dimensions."""

    classes: Classes = True
    temperature: float = 1.0
    axes: Mapping[int, int] = field(default_factory=dict)

    def distance(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """How far `outputs` are from `wanted`, both (N, …): at least 0, but for rounding. Of outputs that are no
        floating-point numbers, such as the class itself, nothing is asked, nor of samples for which there are none
        to give (see `sound`)."""
        if not wanted.is_floating_point():
            return torch.zeros((), device=wanted.device)
        axis = self.axes.get(wanted.ndim, 1)
        each = scores(wanted, self.classes, axis)
        if each is not None:
            by_place = scores(outputs, self.classes, axis)
            assert by_place is not None
            outputs, wanted = by_place, each
        rows = sound(wanted, each is not None)
        if not bool(rows.all()):
            outputs, wanted = outputs[rows], wanted[rows]
            if not len(wanted):
                return outputs.sum()
        if each is None:
            # Of a single sample nothing is known of how outputs vary, but how large they are.
            middle = wanted.mean(0) if len(wanted) > 1 else 0.0
            spread = (wanted - middle).square().mean() + TINY
            return (outputs - wanted).square().mean() / spread
        if _probabilities(wanted):
            outputs, wanted = outputs.clamp_min(TINY).log(), wanted.clamp_min(TINY).log()
        outputs, wanted = (_logs(each, self.temperature) for each in (outputs, wanted))
        return self.temperature * functional.kl_div(outputs, wanted, reduction="batchmean", log_target=True)

    @torch.no_grad()
    def distances(
        self,
        original: Program,
        programs: Sequence[Program],
        inputs: Samples,
        batch: int,
    ) -> list[float]:
        """How far each program's outputs are from the original's: summed over outputs, the mean over whole batches.
        Infinitely far where they are not numbers."""
        totals, count = [0.0] * len(programs), 0
        for each in inputs.batches(batch):
            wanted = original.run(each)
            count += 1
            for index, program in enumerate(programs):
                outputs = program.run(each)
                totals[index] += sum(float(self.distance(*pair)) for pair in zip(outputs, wanted, strict=True))
        return [max(total, 0.0) / max(count, 1) if math.isfinite(total) else math.inf for total in totals]


@torch.no_grad()
def nearness(original: Program, inputs: Samples, batch: int, classes: Classes) -> Nearness:
    """The measure for a network: of the lowest temperature, from 1 up, at which it is unsure enough on `inputs`."""
    if not classes:
        return Nearness(False)
    logits: list[Tensor] = []
    axes: dict[int, int] = {}
    for part in inputs[: max(SAMPLES, batch)].batches(batch):
        outputs = original.run(part)
        axes |= {each.ndim: class_axis(each, part) for each in outputs if each.ndim > 1}
        found = [s for each in outputs if (s := scores(each, classes, axes.get(each.ndim, 1))) is not None]
        if not found:
            break
        # Of very many places some.
        found = [each[:: max(1, each.numel() // NUMBERS)] for each in found]
        found = [each[sound(each, classes=True)] for each in found]
        logits += [each.clamp_min(TINY).log() if _probabilities(each) else each for each in found if len(each)]
    if not logits or _share(logits, 1.0) >= ENTROPY:
        return Nearness(classes, axes=axes)
    low, high = 1.0, HOTTEST
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _share(logits, middle) >= ENTROPY else (middle, high)
    return Nearness(classes, high, axes)


def sound(outputs: Tensor, classes: bool) -> Tensor:
    """Which samples of `outputs` (N, …) are numbers: all of theirs are finite, or of classes' scores (N, C) the
    largest. A score of -∞ rules a class out, no more."""
    return outputs.amax(1).isfinite() if classes else outputs.reshape(len(outputs), -1).isfinite().all(1)


def _probabilities(outputs: Tensor) -> bool:
    return bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() < 1e-3).all())


def _logs(logits: Tensor, temperature: float) -> Tensor:
    """The logarithms of the classes' probabilities."""
    return functional.log_softmax(logits / temperature, 1).clamp_min(LOWEST)


def _share(logits: Sequence[Tensor], temperature: float) -> float:
    """The mean entropy of the classes' probabilities, as a share of the largest that it can be."""
    shares = []
    for each in logits:
        logs = _logs(each.double(), temperature)
        shares.append(-(logs.exp() * logs).sum(1).mean() / math.log(each.shape[1]))
    return float(torch.stack(shares).mean())
