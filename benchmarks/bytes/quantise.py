"""Whole networks in fewer bits, as others do it: rounded, or with error feedback (GPTQ, arXiv:2210.17323).

Every convolution and linear layer has levels of −most … most and one step for each output channel: the one of least
squared error among fractions of that which reaches the largest weight. Everything else stays float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# The largest level of each width.
MOST: Mapping[str, int] = {"int8": 127, "int4": 7}
# A share of the inputs' mean variance that is added to each, as in the paper's section 3.3.
RIDGE = 1e-2
# Columns whose errors are passed on at once, in the blocks of the paper's Figure 2; images of which patches lie in
# memory together.
BLOCK, IMAGES = 128, 32


@dataclass(frozen=True)
class Coded:
    """A weight (outputs, …) as int8 `levels` of its shape, times a float32 step (outputs,)."""

    levels: Tensor
    steps: Tensor

    @property
    def weight(self) -> Tensor:
        return self.levels.float() * self.steps.reshape(-1, *[1] * (self.levels.dim() - 1))


def quantised(model: nn.Module, width: str, inputs: Tensor | None = None) -> dict[str, Coded]:
    """The weights of every convolution and linear layer by name, in `model`'s order of calls.

    Rounded; with `inputs` (n, …) by error feedback, each layer given what those before it, quantised already, put out.
    The model then has the quantised weights.
    """
    found: dict[str, Coded] = {}
    layers = {f"{name}.weight": each for name, each in model.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)}
    if inputs is None:
        for name, layer in layers.items():
            found[name] = coded(layer, MOST[width], None)
    else:

        def before(layer: nn.Conv2d | nn.Linear, name: str, given: Tensor) -> None:
            if name not in found:
                found[name] = coded(layer, MOST[width], covariance(layer, given))
                layer.weight.data = found[name].weight

        hooks = [
            layer.register_forward_pre_hook(lambda layer, given, name=name: before(layer, name, given[0]))
            for name, layer in layers.items()
        ]
        with torch.no_grad():
            model(inputs)
        for hook in hooks:
            hook.remove()
    for name, each in found.items():
        layers[name].weight.data = each.weight
    return found


def coded(layer: nn.Conv2d | nn.Linear, most: int, moments: Tensor | None) -> Coded:
    """A layer's weight, rounded where `moments` (see `covariance`) are not given."""
    weight = layer.weight.detach()
    steps = best_steps(weight.flatten(1), most)
    if moments is None:
        levels = torch.round(weight.flatten(1) / steps[:, None]).clamp(-most, most)
    else:
        rows = weight.reshape(len(moments), -1, moments.shape[-1])
        levels = fed_back(rows.double(), steps.reshape(len(moments), -1).double(), most, moments)
    return Coded(levels.reshape(weight.shape).to(torch.int8), steps)


def best_steps(rows: Tensor, most: int) -> Tensor:
    """For each row (outputs, m) the step of least squared error."""
    largest = rows.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)
    best, least = largest / most, torch.full_like(largest, torch.inf)
    for share in torch.linspace(1.0, 0.3, 36).tolist():
        steps = largest * share / most
        error = (torch.round(rows / steps[:, None]).clamp(-most, most) * steps[:, None] - rows).square().sum(1)
        best = torch.where(error < least, steps, best)
        least = torch.minimum(error, least)
    return best


def fed_back(rows: Tensor, steps: Tensor, most: int, moments: Tensor) -> Tensor:
    """Levels (g, n, m) of `rows` (g, n, m) in g groups with `steps` (g, n), given their inputs' second moments
    (g, m, m). Column after column, and what rounding one has lost goes into those still to come."""
    size = rows.shape[-1]
    identity = torch.eye(size, dtype=torch.float64)
    mean = moments.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(torch.float32).tiny)
    inverse = torch.linalg.inv(moments + RIDGE * mean[:, None, None] * identity)
    factor = torch.linalg.cholesky(inverse, upper=True)
    rest, levels = rows.clone(), torch.empty_like(rows)
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        errors = torch.empty_like(rows[:, :, start:end])
        for column in range(start, end):
            levels[:, :, column] = torch.round(rest[:, :, column] / steps).clamp(-most, most)
            lost = rest[:, :, column] - levels[:, :, column] * steps
            errors[:, :, column - start] = lost / factor[:, column, column, None]
            rest[:, :, column:end] -= errors[:, :, column - start, None] * factor[:, None, column, column:end]
        rest[:, :, end:] -= errors @ factor[:, start:end, end:]
    return levels


def covariance(layer: nn.Conv2d | nn.Linear, inputs: Tensor) -> Tensor:
    """The second moments (groups, m, m) of what each output of a layer is a sum over, on the average over `inputs` and
    places, in double precision."""
    if isinstance(layer, nn.Linear):
        rows = inputs.reshape(-1, layer.in_features)
        return (rows.T @ rows).double()[None] / len(rows)
    assert not isinstance(layer.padding, str)
    groups, count, total = layer.groups, 0, torch.zeros((), dtype=torch.float64)
    for part in torch.split(inputs, IMAGES):
        patches = functional.unfold(
            part, layer.kernel_size, dilation=layer.dilation, padding=layer.padding, stride=layer.stride
        )
        grouped = patches.reshape(len(part), groups, -1, patches.shape[-1]).transpose(0, 1)
        rows = grouped.permute(0, 2, 1, 3).flatten(2)
        total = total + (rows @ rows.transpose(1, 2)).double()
        count += rows.shape[-1]
    return total / count
