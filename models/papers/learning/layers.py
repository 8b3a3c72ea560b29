"""The layers of an `nn.Module` that the learning truncates, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from rightrank.models.factor.forms.channel import Channel
from rightrank.models.factor.layer import Layer
from rightrank.models.papers.learning import lowrank

KINDS: Mapping[Callable[..., Any], str] = {
    functional.linear: "linear",
    functional.conv1d: "conv1d",
    functional.conv2d: "conv2d",
    functional.conv3d: "conv3d",
}
# The paper's.
FORM = Channel()
GROUPS = 6  # a convolution's argument of that name


def find(model: nn.Module, x: Tensor) -> tuple[Layer, ...]:
    """Every weight that `model(x)` multiplies by, in ungrouped convolutions, linear layers and torch's attention, in
    order of first use.

    Runs the model once without gradients; nothing in it changes. `x` has the batch as its first
    dimension. A weight used twice is one layer; one that anything else reads too is none.
    """
    uses = _Uses(model)
    with torch.no_grad(), uses:
        lowrank.forward(model, {}, x)
    return tuple(
        _layer(name, kind, model.get_parameter(name), max(1, outputs // (len(x) * len(model.get_parameter(name)))))
        for name, (kind, outputs) in uses.products.items()
        if name not in uses.others and _smaller(model.get_parameter(name))
    )


class _Uses(TorchFunctionMode):
    """Hears every call. `products`: each parameter that is multiplied by, how, and how many numbers came of it;
    `others`: those of which a call makes something else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.products: dict[str, tuple[str, int]] = {}
        self.others: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = {self._names[id(each)] for each in _tensors([*args, *kwargs.values()]) if id(each) in self._names}
        if read and next(_tensors([result]), None) is not None:
            read -= self._multiplied(func, args, kwargs, result)
            self.others |= read
        return result

    def _multiplied(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> set[str]:
        """The parameters that this call multiplies by, and reads as nothing else. Biases are among `others`, which
        does no harm: they are no matrices."""
        if func is functional.multi_head_attention_forward:
            return self._attention(args, kwargs, result[0])
        groups = kwargs.get("groups", args[GROUPS] if len(args) > GROUPS else 1)
        if func not in KINDS or groups != 1:
            return set()
        weight = kwargs["weight"] if "weight" in kwargs else args[1]
        rest = [each for index, each in enumerate(args) if index != 1] + [
            each for key, each in kwargs.items() if key != "weight"
        ]
        if any(each is weight for each in _tensors(rest)):
            return set()
        return self._add(weight, KINDS[func], result.numel())

    def _attention(self, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> set[str]:
        """Its function is one call with all projections; the first is of queries, keys and values, at once or each."""
        query, key, value = args[:3]
        alone = [(kwargs.get(f"{x}_proj_weight"), each) for x, each in zip("qkv", (query, key, value), strict=True)]
        found = self._add(args[5], "linear", 3 * out.numel()) | self._add(args[11], "linear", out.numel())
        for weight, given in alone:
            found |= self._add(weight, "linear", given.numel() // given.shape[-1] * out.shape[-1])
        return found

    def _add(self, weight: Any, kind: str, outputs: int) -> set[str]:
        name = self._names.get(id(weight))
        if name is None:
            return set()
        self.products[name] = kind, self.products.get(name, (kind, 0))[1] + outputs
        return {name}


def _tensors(values: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


def _smaller(weight: Tensor) -> bool:
    """Whether a rank takes fewer numbers than the whole."""
    m, n = math.prod(weight.shape[1:]), len(weight)
    return m + n < m * n


def _layer(weight: str, kind: str, parameter: Tensor, positions: int) -> Layer:
    name = weight.removesuffix(".weight")
    return Layer(
        name=name,
        weight=weight,
        kind=kind,
        shape=tuple(parameter.shape),
        calls=(name,),
        positions=positions,
        decomposed=True,
        form=FORM,
    )
