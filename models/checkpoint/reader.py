"""From a file to a program, whatever its format."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rightrank.models import architectures
from rightrank.models.checkpoint import exported, fit, pickles, statedict
from rightrank.models.checkpoint.advice import EXPORT
from rightrank.models.checkpoint.archive import Archive
from rightrank.models.checkpoint.exported import Exported
from rightrank.models.checkpoint.fit import States
from rightrank.models.checkpoint.limits import OTHER_ENTRIES, Limits
from rightrank.models.errors import MalformedCheckpoint, UnsafeCheckpoint, UnsupportedCheckpoint
from rightrank.models.program import execute
from rightrank.models.program.graph import Graph
from rightrank.models.program.operators import COMPLEX
from rightrank.models.program.program import Program
from rightrank.models.simplify.normalize import normalize

_PICKLE = b"\x80"


def read(
    path: Path,
    architecture: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    tell: Callable[[str], None] = warnings.warn,
) -> Program:
    """The normalised program in `path`, its tensors contiguous.

    architecture: for a state dict, `{"name": "resnet50", "arguments": {"num_classes": 10}}`.
    tell: takes each sentence on what of the file was left out, or read otherwise than it stands there.
    Raises UnsafeCheckpoint, UnsupportedCheckpoint or MalformedCheckpoint. Nothing in the file is ever
    executed, but memory and time are only bounded by `sandbox.prepare`.
    """
    limits = limits or Limits()
    found = _read(path, architecture, limits, tell)
    _check_finite(found.graph, found.tensors)
    graph = normalize(found.graph, found.tensors, found.metas)
    _check_statistics(graph, found.statistics)
    program = Program(graph, {name: found.tensors[name] for name in sorted({*graph.tensors.values()})})
    _check_runs(program, limits)
    return program


def _check_statistics(graph: Graph, statistics: frozenset[str]) -> None:
    """In eval mode a norm makes no new statistics; what still does so is something else by such a name."""
    if made := statistics & {name for node in graph.nodes for name in node.outputs}:
        raise UnsupportedCheckpoint(
            f"The program changes its own state: {min(made)} is kept for the next call.",
            "Export the model in eval mode, with outputs that are tensors.",
        )


def _read(path: Path, architecture: Mapping[str, Any] | None, limits: Limits, tell: Callable[[str], None]) -> Exported:
    with path.open("rb") as file:
        head = file.read(9)
        if not head:
            raise MalformedCheckpoint("The file is empty.", "Upload it again.")
        if head.startswith(b"PK"):
            archive = Archive(file, limits.tensors + OTHER_ENTRIES)
            if exported.is_exported(archive):
                return exported.read(archive, limits)
            return _from_state(statedict.from_archive(archive, file, limits), architecture, limits, tell)
    if statedict.is_safetensors(head):
        return _from_state({(): statedict.from_safetensors(path, limits)}, architecture, limits, tell)
    if head.startswith(_PICKLE):
        pickles.refuse_bare(path)
    raise UnsupportedCheckpoint("The file is in no format that is read.", EXPORT)


def _from_state(
    states: States, architecture: Mapping[str, Any] | None, limits: Limits, tell: Callable[[str], None]
) -> Exported:
    """The named architecture with these weights, exported and read back: one road for every format."""
    if architecture is None:
        raise UnsupportedCheckpoint(
            "The file holds weights without the network that they belong to.",
            f"Name it in `architecture` (one of {', '.join(architectures.NAMES)}). Or: {EXPORT}",
        )
    name, arguments = _checked(architecture)
    module = architectures.build(name, **arguments)
    for note in fit.load_into(module, states):
        tell(note)
    example = torch.zeros(2, *architectures.input_shape(name, **arguments), dtype=next(module.parameters()).dtype)
    buffer = io.BytesIO()
    torch.export.save(_export(module.eval(), example), buffer)
    return exported.read(Archive(buffer, limits.tensors + OTHER_ENTRIES), limits)


def _checked(architecture: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name, arguments = architecture.get("name"), architecture.get("arguments", {})
    unknown = sorted(set(architecture) - {"name", "arguments"})
    if not isinstance(name, str) or not isinstance(arguments, dict) or unknown:
        raise MalformedCheckpoint(
            "The architecture is not a name with arguments.",
            'It looks like {"name": "resnet50", "arguments": {"num_classes": 10}}.',
        )
    return name, arguments


def _export(module: torch.nn.Module, example: Tensor) -> Any:
    for batch in (torch.export.Dim.DYNAMIC, torch.export.Dim.AUTO):
        try:
            return torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
        except (RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
            failure = error
    raise UnsupportedCheckpoint("The architecture cannot be exported.", EXPORT) from failure


def _check_finite(graph: Graph, tensors: Mapping[str, Tensor]) -> None:
    """No NaN anywhere. Infinity only in buffers, and only negative: attention masks are written that way."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        allowed = torch.isfinite(tensor)
        if name not in graph.parameters:
            allowed |= torch.isneginf(tensor)
        if not bool(allowed.all()):
            raise MalformedCheckpoint(
                f"The tensor {name} holds NaN or infinity.",
                "The training diverged; upload an earlier checkpoint.",
            )


def _check_runs(program: Program, limits: Limits) -> None:
    """A run on shapes alone, which computes nothing: calls that do not fit together, or that would take more
    memory than any honest network does for one input, are found here and not in a worker."""
    try:
        shapes = program.shapes
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, NotImplementedError) and "nonzero" in str(error):
            raise UnsupportedCheckpoint(
                "The program selects by a mask that it computes: how much is left depends on the input's values.",
                "Keep the size, with torch.where or a product with the mask, or select by a mask that is a buffer.",
            ) from error
        # Whatever torch's operators raise when they are called with what they do not take.
        raise MalformedCheckpoint(
            f"The program does not run: {_first_line(error)}", "Check that it runs after torch.export.load."
        ) from error
    if any(node.op in COMPLEX for node in program.graph.nodes):
        _check_real(program)
    for name, shape in shapes.items():
        count = math.prod(shape)
        if name not in program.graph.tensors and 4 * count > limits.memory:
            raise UnsafeCheckpoint(f"The program computes a tensor of {count} elements ({name}).")


def _check_real(program: Program) -> None:
    """Complex numbers only come in between: what measures, compares and answers takes real ones."""
    meta = program.with_tensors(execute.without_data(program.graph, program.tensors))
    with torch.no_grad():
        outputs = meta.run(meta.example(2, device="meta"))
    if any(output.is_complex() for output in outputs):
        raise MalformedCheckpoint("The program's outputs are complex, and said to be real.", EXPORT)


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return text if len(text) <= 200 else text[:200] + "…"
