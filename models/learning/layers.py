"""The layers of an `nn.Module` that the learning truncates, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.layers import Layer
from models.learning import lowrank

KINDS = {nn.Linear: "linear", nn.Conv1d: "conv1d", nn.Conv2d: "conv2d", nn.Conv3d: "conv3d"}


def find(model: nn.Module, x: Tensor) -> tuple[Layer, ...]:
    """Every ungrouped convolution and linear layer that `model(x)` uses, in order of first use.

    Runs the model once without gradients; nothing in it changes. `x` has the batch as its first
    dimension. A module used twice, or two that share a weight, are one layer.
    """
    positions: dict[str, int] = {}
    candidates = _candidates(model)

    def count(weight: str, channels: int) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            positions[weight] = positions.get(weight, 0) + output.numel() // (channels * len(x))

        return hook

    hooks = [
        module.register_forward_hook(count(weight, weights.shape[0]))
        for weight, modules in candidates.items()
        for module in modules
        if isinstance(weights := module.weight, Tensor)
    ]
    try:
        with torch.no_grad():
            lowrank.forward(model, {}, x)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(_layer(weight, candidates[weight], positions[weight]) for weight in positions)


def _candidates(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules that apply each weight, where all that hold it multiply by it as a matrix.

    A weight that is computed (a parametrization) is no parameter, and is left alone.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    users: dict[str, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(names[id(parameter)], []).append(module)
    return {name: modules for name, modules in users.items() if all(_multiplies(m, name, model) for m in modules)}


def _multiplies(module: nn.Module, name: str, model: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    if weight is not model.get_parameter(name) or not isinstance(module, tuple(KINDS)):
        return False
    m, n = math.prod(weight.shape[1:]), weight.shape[0]
    return getattr(module, "groups", 1) == 1 and m + n < m * n


def _layer(weight: str, modules: list[nn.Module], positions: int) -> Layer:
    parameter = modules[0].get_parameter("weight")
    return Layer(
        name=weight.removesuffix(".weight"),
        weight=weight,
        kind=next(kind for cls, kind in KINDS.items() if isinstance(modules[0], cls)),
        shape=tuple(parameter.shape),
        m=math.prod(parameter.shape[1:]),
        n=parameter.shape[0],
        calls=(weight.removesuffix(".weight"),),
        positions=positions,
        decomposed=True,
    )
