"""Adam with L2 makes whole channels zero in networks that rectify (arXiv:1812.08119).

L2 has to be part of the objective, so that its gradient passes through Adam's moments: with nothing but
`λw` left of a dead unit's gradient, Adam divides λ out again and the weights shrink by about the learning
rate at every step. SGD and AdamW shrink them by a factor 1 − ηλ a step, which never arrives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from rightrank.models.simplify.zeros import columns

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
OPTIMISERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9),
}


@dataclass(frozen=True)
class Setting:
    """`optimizer` and `activation` by name; `l2` is the λ of the objective's λ/2·‖w‖² (for adamw, the decay of
    the weights beside it); the learning `rate` halves after each quarter
    of the epochs, rounded down to whole ones but at least one."""

    optimizer: str = "adam"
    l2: float = 5e-4
    activation: str = "relu"
    rate: float = 1e-3
    epochs: int = 100
    batch: int = 64


@dataclass(frozen=True)
class Epoch:
    """After an epoch: its mean loss, and the column norms of every hidden layer."""

    loss: float
    norms: tuple[Tensor, ...]

    @property
    def zero(self) -> float:
        """The share of hidden columns that are zero."""
        dead = sum(int((norms <= columns.cut(norms)).sum()) for norms in self.norms)
        return dead / sum(len(norms) for norms in self.norms)


def perceptron(
    inputs: int, hidden: Sequence[int], classes: int, activation: str, *, norm: bool = True
) -> nn.Sequential:
    """Linear layers with the activation between them, and before it batch norm (`norm`) or a bias."""
    layers: list[nn.Module] = []
    for m, n in pairwise((inputs, *hidden)):
        layers.append(nn.Linear(m, n, bias=not norm))
        layers += [nn.BatchNorm1d(n)] if norm else []
        layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers, nn.Linear((inputs, *hidden)[-1], classes))


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    setting: Setting,
    *,
    seed: int = 0,
    progress: Callable[[int, Epoch], None] | None = None,
) -> list[Epoch]:
    """Fit `model` in place and leave it in eval mode. The order of the samples follows from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    make = OPTIMISERS[setting.optimizer]
    optimiser = make(model.parameters(), lr=setting.rate, weight_decay=setting.l2, fused=True)
    steps = len(images) // setting.batch
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, max(1, setting.epochs // 4), gamma=0.5)
    history = []
    model.train()
    for number in range(setting.epochs):
        total = 0.0
        # The last, short batch is dropped: batch statistics of a few images are noise.
        order = torch.randperm(len(images), generator=generator)[: steps * setting.batch]
        for chosen in torch.split(order, setting.batch):
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach())
        schedule.step()
        history.append(Epoch(total / steps, hidden_norms(model)))
        if progress is not None:
            progress(number, history[-1])
    model.eval()
    return history


def hidden_norms(model: nn.Module) -> tuple[Tensor, ...]:
    """The column norms of every linear layer but the last."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    return tuple(columns.norms(layer.weight) for layer in layers[:-1])
