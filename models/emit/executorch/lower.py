"""A .pt2 file → a .pte file: what XNNPACK takes runs there, the rest by ExecuTorch's portable kernels.

Needs the package `executorch`, which brings pandas, coremltools and more: nothing else imports this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch import Tensor, nn
from torch.export import ExportedProgram

from rightrank.models.emit.pt2.runtime import program_of
from rightrank.models.errors import FormatError, PrecisionError

# By this method a file says how many samples it takes at once.
MOST = "get_max_batch_size"


class _Called(nn.Module):
    """A program that takes its inputs together."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, *inputs: Tensor) -> Any:
        return self.program(*inputs)


class _InHalf(nn.Module):
    """A program in half precision, which takes and gives single."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        for tensor in [*program.parameters(), *program.buffers()]:
            if bool((tensor.isfinite() & tensor.half().isinf()).any()):
                raise PrecisionError(
                    f"float16 goes up to 65,504, and a tensor of this model has {float(tensor.abs().max()):g}.",
                    "Ask for another precision.",
                )
        self.program = program.half()

    def forward(self, *inputs: Tensor) -> Any:
        made = self.program(*(each.half() if each.is_floating_point() else each for each in inputs))
        return tuple(map(_single, made)) if isinstance(made, (tuple, list)) else _single(made)


def _single(made: Tensor) -> Tensor:
    return made.float() if made.dtype == torch.float16 else made


def lower(
    data: bytes,
    inputs: Sequence[Tensor],
    free: Sequence[Mapping[int, tuple[str, int, int]]],
    most: int | None,
    half: bool,
) -> bytes:
    """The file of a program, which takes at most so many samples at once (None: as many as it was exported for).
    `inputs` are such as it takes, and `free` those of their sizes that are free: a name, the least and the most.

    Where ExecuTorch fixes the batch on its way, as it does for some programs without a word, or computes only the first
    of several samples right, the file takes one sample. What it puts out is held to the program's own.
    Raises FormatError where it cannot hold the program, PrecisionError where half precision cannot.
    """
    try:
        program = _named(program_of(data))
        kind = _InHalf if half else _Called
        if half:
            program = _exported(kind(program.module()), inputs, free)
        edge = _lowered(program, most)
        fixed = most is not None and _fixed(edge.exported_program(), free)
        made = b"" if fixed else bytes(edge.to_executorch(ExecutorchBackendConfig()).buffer)
        if fixed or (most is not None and not _right(made, data, inputs, free, most, half)):
            if any(set(several) - {0} for several in free):
                raise FormatError(
                    "ExecuTorch takes only one size of what this model leaves free.",
                    "Export it with fixed sizes, or ask for another format.",
                )
            single = [each[:1] if several else each for each, several in zip(inputs, free, strict=True)]
            # What was lowered has the size fixed for good, so it is read again.
            again = kind(program_of(data).module())
            edge = _lowered(_exported(again, single, [{} for _ in single]), 1)
            made = bytes(edge.to_executorch(ExecutorchBackendConfig()).buffer)
        rows = None if most is None else 1
        if not _right(made, data, inputs, free, rows, half):
            raise FormatError("ExecuTorch's file computes something else than the model.", "Ask for another format.")
        return made
    except (MemoryError, PrecisionError, FormatError):
        raise
    except Exception as error:
        # Whatever its passes raise for an operator that they do not know.
        reason = (str(error).strip().split("\n") or [""])[0][:300]
        raise FormatError(
            f"ExecuTorch does not take the program: {type(error).__name__}: {reason}", "Ask for another format."
        ) from error


def _named(program: ExportedProgram) -> ExportedProgram:
    """The same, no tensor's name beginning with a number, as those of a Sequential do: ExecuTorch makes names of values
    of them, and looks for these in vain."""
    for spec in program.graph_signature.input_specs:
        if spec.target is not None and spec.target[:1].isdigit():
            found = program.state_dict.pop(spec.target)
            spec.target = f"net.{spec.target}"
            program.state_dict[spec.target] = found
    return program


def _right(
    made: bytes,
    data: bytes,
    inputs: Sequence[Tensor],
    free: Sequence[Mapping[int, tuple[str, int, int]]],
    rows: int | None,
    half: bool,
) -> bool:
    """Whether a file puts out what the program does, for so many samples that are all different (None: as many as the
    inputs have)."""
    draw = torch.Generator().manual_seed(0)
    given = []
    for each, several in zip(inputs, free, strict=True):
        shape = list(each.shape) if rows is None or 0 not in several else [rows, *each.shape[1:]]
        if each.is_floating_point():
            given.append(torch.randn(shape, generator=draw).to(each.dtype))
        else:
            # Of numbers of things 0 and 1 are always some.
            given.append(torch.randint(0, 2, shape, generator=draw).to(each.dtype))
    with torch.inference_mode():
        found = Runtime.get().load_program(made).load_method("forward").execute([each.contiguous() for each in given])
        wanted = program_of(data).module()(*given)
    expected = wanted if isinstance(wanted, (tuple, list)) else [wanted]
    near = 0.1 if half else 1e-3
    return all(
        bool((mine.double() - theirs.double()).abs().max() <= near * max(1.0, float(theirs.double().abs().max())))
        for mine, theirs in zip(found, expected, strict=True)
        if theirs.numel()
    )


def _lowered(program: ExportedProgram, most: int | None) -> Any:
    methods = None if most is None else {MOST: most}
    return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], constant_methods=methods)


def _exported(
    module: nn.Module, inputs: Sequence[Tensor], free: Sequence[Mapping[int, tuple[str, int, int]]]
) -> ExportedProgram:
    dims: dict[str, Any] = {}
    for several in free:
        for name, low, high in several.values():
            dims.setdefault(name, torch.export.Dim(name, min=low, max=high))
    shapes = tuple({dim: dims[name] for dim, (name, _, _) in several.items()} for several in free)
    return torch.export.export(module, tuple(inputs), dynamic_shapes=(shapes,))


def _fixed(program: ExportedProgram, free: Sequence[Mapping[int, tuple[str, int, int]]]) -> bool:
    """Whether what is made of an input with a free size has none, as where that was fixed on the way."""
    inputs = program.graph_signature.user_inputs
    opened = {name for name, several in zip(inputs, free, strict=True) if several}
    for node in program.graph.nodes:
        if node.op == "call_function" and opened & {each.name for each in node.all_input_nodes}:
            made = node.meta.get("val")
            several = made if isinstance(made, (list, tuple)) else [made]
            sizes = [size for each in several if isinstance(each, Tensor) for size in each.shape]
            # A size that was fixed may still be a symbol, of which a number is known.
            if sizes and all(str(size).isdigit() for size in sizes):
                return True
    return False
