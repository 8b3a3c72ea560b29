"""One training step of paper 1: the network and a truncation of it, learning together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rightrank.models.factor.layer import Layer
from rightrank.models.papers.learning import layers, lowrank, ranks
from rightrank.models.papers.learning.decomposition import Decomposition, as_matrix, as_weight, decompose, truncate
from rightrank.models.papers.learning.gradient import GRADIENTS
from rightrank.models.plan.criteria import Importance


@dataclass(frozen=True)
class StepResult:
    """What a step did: the losses before its update (scalars on the model's device, detached), `loss` being
    the objective; the kept fraction `z` drawn, and the rank of each layer in the low-rank pass."""

    loss: Tensor
    full: Tensor
    low_rank: Tensor
    z: float
    ranks: Mapping[str, int]


class ScalableLearner:
    """Minimises `(1−λ)·L(full) + λ·L(low-rank)` (arXiv:1910.13141, Eq. 3), one `step` a batch.

    Each step draws a kept fraction from `z` and removes the bases that `criterion` ranks last over the
    whole network. Biases, batch-norm parameters and whatever is no matrix are shared by both passes and
    get the gradient of the sum; so are parameters of the loss that the optimiser has. `gradient` names how
    the gradient of a truncated weight becomes one of the weight (see `gradient.GRADIENTS`); "v3" also scales it,
    layer by layer, to the norm of the full pass's.
    The SVD is renewed every `svd_interval` steps, and in between weights are projected onto its bases.

    The learner keeps nothing that a checkpoint would need. It takes `optimizer` steps, never touches its
    settings, and works with any learning-rate schedule around it.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        lam: float = 0.5,
        z: tuple[float, float] = (0.01, 1.0),
        gradient: str = "v3",
        criterion: str = "c1",
        svd_interval: int = 2,
    ) -> None:
        if not 0 <= lam <= 1:
            raise ValueError(f"lam={lam} is not between 0 and 1.")
        if not 0 < z[0] <= z[1] <= 1:
            raise ValueError(f"z={z} is not a range of kept fractions, 0 < low <= high <= 1.")
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient={gradient!r} is not one of {', '.join(GRADIENTS)}.")
        if svd_interval < 1:
            raise ValueError(f"svd_interval={svd_interval} is not a number of steps, 1 or more.")
        self._model, self._loss, self._optimizer = model, loss, optimizer
        self._lam, self._z, self._interval = lam, z, svd_interval
        self._mode, self._criterion = GRADIENTS[gradient], ranks.rule(criterion)
        self._layers: tuple[Layer, ...] = ()
        self._svds: list[Decomposition] = []
        self._importance: Importance = []
        self._steps = 0

    def step(self, x: Tensor, y: Any) -> StepResult:
        """Learn from one batch: two passes forward and back, one step of the optimiser.

        Raises ValueError where the model is in evaluation mode, or has no layer to truncate.
        """
        if not self._model.training:
            raise ValueError("The model is in evaluation mode; call model.train() before training it.")
        self._renew(x)
        parameters = self._parameters()
        full = self._loss(self._model(x), y)
        full_gradients = _gradients(full, parameters)
        z = ranks.draw(*self._z)
        kept = ranks.keep(self._importance, z)
        truncated = self._truncated(kept)
        low = self._loss(lowrank.forward(self._model, truncated, x), y)
        low_gradients = self._through(_gradients(low, {**parameters, **truncated}), kept, full_gradients)
        for name, parameter in parameters.items():
            parameter.grad = _mix(full_gradients.get(name), low_gradients.get(name), self._lam)
        self._optimizer.step()
        self._steps += 1
        full, low = full.detach(), low.detach()
        return StepResult(
            loss=(1 - self._lam) * full + self._lam * low,
            full=full,
            low_rank=low,
            z=z,
            ranks={layer.name: rank for layer, rank in zip(self._layers, kept, strict=True)},
        )

    def _parameters(self) -> dict[str, Tensor]:
        """All that learns, by name: the model's parameters, and others that the optimiser has, such as the loss's."""
        named = dict(self._model.named_parameters())
        mine = {id(parameter) for parameter in named.values()}
        given = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        others = {f".{at}": parameter for at, parameter in enumerate(given) if id(parameter) not in mine}
        return {name: parameter for name, parameter in {**named, **others}.items() if parameter.requires_grad}

    def _renew(self, x: Tensor) -> None:
        if not self._layers:
            self._layers = layers.find(self._model, x)
            if not self._layers:
                raise ValueError("The model uses no linear layer or ungrouped convolution that could be truncated.")
        if self._steps % self._interval == 0:
            self._svds = [decompose(self._model.get_parameter(layer.weight)) for layer in self._layers]
            self._importance = ranks.importance(self._criterion, self._layers, self._svds)

    def _truncated(self, kept: Iterable[int]) -> dict[str, Tensor]:
        """A leaf for each layer's weight, so that the low-rank pass yields ∂L/∂W_r."""
        weights = {}
        for layer, svd, rank in zip(self._layers, self._svds, kept, strict=True):
            weight = self._model.get_parameter(layer.weight)
            cut = truncate(weight.detach(), svd, rank)
            weights[layer.weight] = cut.requires_grad_(weight.requires_grad)
        return weights

    def _through(
        self, gradients: dict[str, Tensor], kept: Iterable[int], full: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The low-rank pass's gradients with ∂L/∂W_r turned into ∂L/∂W."""
        result = dict(gradients)
        for layer, svd, rank in zip(self._layers, self._svds, kept, strict=True):
            if (found := gradients.get(layer.weight)) is not None:
                gradient = as_weight(self._mode.through(as_matrix(found), svd, rank), found.shape)
                if self._mode.matched and layer.weight in full:
                    gradient = gradient * (full[layer.weight].norm() / gradient.norm().clamp_min(1e-12))
                result[layer.weight] = gradient
        return result


def _gradients(loss: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By name, without those that the loss does not depend on."""
    wanted = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(wanted, found, strict=True) if gradient is not None}


def _mix(full: Tensor | None, low: Tensor | None, lam: float) -> Tensor | None:
    if full is None or low is None:
        return lam * low if low is not None else (1 - lam) * full if full is not None else None
    return (1 - lam) * full + lam * low
