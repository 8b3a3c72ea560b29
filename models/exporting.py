"""From a trained module to a file that can be published: `torch.export` with those sizes free that should be, and
without the example's data in the file."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from rightrank.models.errors import ExportError

# Inputs in the order of `forward`'s arguments, or by their names; what is no tensor or array is fixed in the file.
Example: TypeAlias = "Tensor | np.ndarray[Any, Any] | Sequence[Any] | Mapping[str, Any]"
# Which dimensions besides the first are free, and between which sizes.
Free: TypeAlias = Mapping[int, tuple[int, int]]
# What a network that puts out an object calls its answers, by what is looked for first.
ANSWERS = ("logits", "out", "last_hidden_state", "pooler_output")
MOST = 300


def export(module: nn.Module, example: Example, file: str | PathLike[str], *, free: Free | None = None) -> Path:
    """Writes a trained module to `file` as `torch.export` sees it, in evaluation mode, run on an `example`; the path.

    Tensors of the example, (n, …), have samples for rows; one will do. How many rows there are is free in the file
    where the network allows that, else as in the example. `free` says which other dimensions are, and between which
    sizes: `{1: (2, 512)}` for sequences, `{2: (32, 512), 3: (32, 512)}` for images. Of a network that puts out an
    object, the file has its `logits`, or what it has first. The module stays as it was. Raises ExportError.
    """
    arguments: tuple[Any, ...] = () if isinstance(example, Mapping) else tuple(map(_read, _several(example)))
    named = {name: _read(each) for name, each in example.items()} if isinstance(example, Mapping) else {}
    given = (*arguments, *named.values())
    if not any(isinstance(each, Tensor) for each in given) or any(not _counts(each) for each in given):
        raise ExportError(
            "The example has to have tensors, and the first dimension of each counts samples.",
            "Give one for each input of the network, such as a batch of what it was trained on.",
        )
    with _still(module) as network, torch.no_grad():
        program = _free(_plain(network, arguments, named), arguments, named, dict(free or {}))
    program.example_inputs = None
    path = Path(file)
    # By this ending torch knows what it writes.
    partial = path.with_name(f"{path.name}.partial.pt2")
    try:
        torch.export.save(program, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _several(example: Tensor | np.ndarray[Any, Any] | Sequence[Any]) -> tuple[Any, ...]:
    return (example,) if isinstance(example, (Tensor, np.ndarray)) else tuple(example)


def _read(value: Any) -> Any:
    """An array as a tensor of its own, and the rest as it is. Raises ExportError."""
    if not isinstance(value, np.ndarray):
        return value
    try:
        return torch.tensor(value)
    except TypeError as error:
        raise ExportError(f"The example has an array of {value.dtype}, which is no tensor.", "Give numbers.") from error


def _counts(value: Any) -> bool:
    """Whether it is no tensor, or has a dimension of samples and at least one of these."""
    return not isinstance(value, Tensor) or (value.dim() > 0 and len(value) > 0)


@contextlib.contextmanager
def _still(module: nn.Module) -> Iterator[nn.Module]:
    """The module in evaluation mode and on the CPU; a copy where it is elsewhere."""
    if any(each.device.type != "cpu" for each in (*module.parameters(), *module.buffers())):
        module = copy.deepcopy(module).cpu()
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield module
    finally:
        for each, training in modes.items():
            each.training = training


class _Wrapped(nn.Module):
    """A network whose outputs are tensors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def _plain(network: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> nn.Module:
    """The network, or where it puts out an object, one that puts out of that what is an answer. Raises ExportError."""
    try:
        found = network(*map(_here, arguments), **{name: _here(each) for name, each in named.items()})
    except Exception as error:
        raise ExportError(
            f"The network does not run on the example: {type(error).__name__}: {str(error)[:MOST]}",
            "The example is what `forward` takes: a tensor, several in its order, or a dict by its arguments' names.",
        ) from error
    if isinstance(found, Tensor) or (type(found) in (tuple, list) and all(isinstance(x, Tensor) for x in found)):
        return network
    key = _answer(found)

    def forward(self: _Wrapped, *arguments: Any, **named: Any) -> Any:
        return _at(self.network(*arguments, **named), key)

    # The inputs keep their names, which data go by.
    forward.__signature__ = inspect.signature(type(network).forward)  # type: ignore[attr-defined]
    wrapped: nn.Module = type("Wrapped", (_Wrapped,), {"forward": forward})(network)
    return wrapped.eval()


def _answer(found: Any) -> str | int:
    """Where in an output its answer is. Raises ExportError where there is no tensor."""
    if isinstance(found, Mapping):
        names = [name for name, each in found.items() if isinstance(each, Tensor)]
        first = [name for name in ANSWERS if name in names] or names
    elif isinstance(found, Sequence):
        first = [index for index, each in enumerate(found) if isinstance(each, Tensor)]
    else:
        first = [name for name in (*ANSWERS, *vars(found)) if isinstance(getattr(found, name, None), Tensor)]
    if not first:
        raise ExportError(
            f"The network puts out a {type(found).__name__} in which there is no tensor.",
            "Wrap it in a module that gives the tensor that is meant.",
        )
    return first[0]


def _at(found: Any, key: str | int) -> Any:
    return found[key] if hasattr(found, "__getitem__") else getattr(found, str(key))


def _free(
    network: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], free: dict[int, tuple[int, int]]
) -> ExportedProgram:
    """The program, its rows free if that can be. Raises ExportError."""
    # With one row, torch takes their number to be always one.
    several = [_rows(each) for each in arguments], {name: _rows(each) for name, each in named.items()}
    with contextlib.suppress(ExportError):
        program = _export(network, tuple(several[0]), several[1], {0: (0, 0), **free})
        if _is_free(program, 0):
            return _checked(program, free)
    return _checked(_export(network, tuple(map(_here, arguments)), {k: _here(v) for k, v in named.items()}, free), free)


def _export(
    network: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], free: Mapping[int, tuple[int, int]]
) -> ExportedProgram:
    def sizes(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        bounds = {dim: bound for dim, bound in free.items() if dim < value.dim()}
        return {dim: Dim.AUTO(min=low, max=high) if high else Dim.AUTO for dim, (low, high) in bounds.items()}

    shapes = [sizes(each) for each in arguments], {name: sizes(each) for name, each in named.items()}
    try:
        return torch.export.export(network, arguments, named, dynamic_shapes=_shapes(network, *shapes), strict=False)
    except Exception as error:
        raise ExportError(
            f"torch cannot export the network: {type(error).__name__}: {str(error).strip()[:MOST]}",
            "Its message says which line of `forward` stands in the way.",
        ) from error


def _shapes(network: nn.Module, arguments: list[Any], named: dict[str, Any]) -> dict[str, Any]:
    """By the names of `forward`'s arguments, as torch takes them."""
    bound = inspect.signature(network.forward).bind(*arguments, **named)
    return dict(bound.arguments)


def _is_free(program: ExportedProgram, dim: int) -> bool:
    """Whether this dimension of any input is free."""
    inputs = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    sizes = [
        inputs[name].meta["val"].shape
        for name in program.graph_signature.user_inputs
        if isinstance(name, str) and isinstance(inputs[name].meta["val"], Tensor)
    ]
    # One that was to be free and turned out to be fixed is a symbol still, which stands for a number.
    return any(dim < len(size) and not str(size[dim]).isdecimal() for size in sizes)


def _checked(program: ExportedProgram, free: Mapping[int, tuple[int, int]]) -> ExportedProgram:
    """The program. Raises ExportError where a dimension is fixed that was to be free."""
    for dim in free:
        if not _is_free(program, dim):
            raise ExportError(
                f"Dimension {dim} cannot be free: something in `forward` needs it to be as in the example.",
                "Leave it out of `free`, or change what depends on it.",
            )
    return program


def _here(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _rows(value: Any) -> Any:
    """A tensor with two rows or more."""
    value = _here(value)
    return torch.cat([value, value]) if isinstance(value, Tensor) and len(value) == 1 else value
