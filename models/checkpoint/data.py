"""Evaluation and calibration data: an array for each input of the program, by its name, and `targets` where there are
any. Samples whose sizes differ come in groups: `input_ids.0`, `targets.0`, `input_ids.1` and so on."""

from __future__ import annotations

import io
import itertools
import lzma
import math
import re
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from rightrank.models.checkpoint import statedict
from rightrank.models.checkpoint.limits import MIB, Limits
from rightrank.models.errors import CheckpointError, DataError
from rightrank.models.program.dtypes import DTYPES
from rightrank.models.program.graph import Graph, Input
from rightrank.models.program.samples import INPUTS, TARGETS, Batch, Data, Samples

_HINT = "Send a .safetensors or .npz file with `inputs` (n, …) and, to measure accuracy, `targets` (n)."
# By the name of an input, or of the targets, and the number of a group.
_Arrays: TypeAlias = dict[str, dict[int | None, Tensor]]
_GROUPED = re.compile(r"(.+)\.(0|[1-9]\d{0,5})\Z")
# What an .npz may unpack to, next to its own size: images of 8 bits compress well, zeros infinitely.
_UNPACKED = 64
_HEADER = 4096
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(ValueError, TypeError, EOFError, OSError, NotImplementedError, RuntimeError),
)
# Exact, or (float64) what torch itself does when it makes a tensor from Python numbers.
_FLOATS = frozenset(getattr(torch, dtype.name) for dtype in DTYPES.values() if dtype.floating)
_CONVERTED = ("uint8", "float16", "bfloat16", "float32", "float64")


def read_data(path: Path, graph: Graph, limits: Limits | None = None) -> Data:
    """The samples in a file, and their targets. Raises DataError.

    Integer and boolean targets become int64, where -100 stands for what is not to count (in a mask of uint8, of more
    than one dimension, 255); float targets become float32. Inputs of uint8 and of other float types are converted to
    the program's float type, values unchanged: uint8 images stay in 0…255, so a network that expects 0…1 has to be
    given floats.
    """
    limits = limits or Limits()
    try:
        found = _read(path, limits, {*(spec.name for spec in graph.inputs), INPUTS, TARGETS})
    except CheckpointError as error:
        raise DataError(error.detail, _HINT) from error
    return data_of(graph, found)


def data_of(graph: Graph, found: Mapping[str, Tensor]) -> Data:
    """The samples that arrays by name make for a program, and their targets (see `read_data`). Raises DataError."""
    names = [spec.name for spec in graph.inputs]
    if TARGETS in names:
        raise DataError(
            "An input of the model is itself called targets, so that data cannot be told from their targets.",
            "Export the model with another name for that argument of forward.",
        )
    if not any(graph.batched):
        raise DataError("No input of the model has a dimension that counts samples.", "Leave the data out.")
    arrays = _by_name(found, names)
    unknown, missing = sorted({*arrays} - {*names, TARGETS}), [name for name in names if name not in arrays]
    if unknown or missing:
        raise DataError(f"The data hold {_list(found) or 'nothing'}; the model takes {_list(names)}.", _wanted(graph))
    first = names[graph.batched.index(True)]
    numbers: list[int | None] = sorted(arrays[first], key=lambda number: -1 if number is None else number)
    _check_groups(graph, arrays, first)
    groups, targets = [], []
    for number in numbers:
        groups.append(_group(graph, arrays, number))
        if TARGETS in arrays:
            count = len(groups[-1][graph.batched.index(True)])
            targets.append(targets_for(arrays[TARGETS][number], count))
    if len({(each.dtype, each.dim()) for each in targets}) > 1:
        raise DataError("The targets of the groups are not of one type.", "Give all of them alike.")
    return Data(Samples(tuple(groups), graph.batched, graph.batch), tuple(targets) or None)


def _by_name(found: Mapping[str, Tensor], names: Sequence[str]) -> _Arrays:
    """The arrays by the name of the input and the number of the group (None: it has none). The only input may be
    called `inputs`."""
    arrays: _Arrays = {}
    for name, each in found.items():
        grouped = _GROUPED.match(name)
        arrays.setdefault(grouped[1] if grouped else name, {})[int(grouped[2]) if grouped else None] = each
    if len(names) == 1 and INPUTS in arrays and names[0] not in arrays:
        arrays[names[0]] = arrays.pop(INPUTS)
    return arrays


def _check_groups(graph: Graph, arrays: _Arrays, first: str) -> None:
    """Every input, and the targets, come in the groups of the `first`; what has no samples may come once."""
    numbers = {*arrays[first]}
    if None in numbers and len(numbers) > 1:
        raise DataError(
            f"There are groups of {first}, and one without a number.", f"Call it {first}.{len(numbers) - 1}."
        )
    for spec, batched in zip(graph.inputs, graph.batched, strict=True):
        given = {*arrays[spec.name]}
        if given != numbers and (batched or given != {None}):
            raise DataError(
                f"The groups of {spec.name} are not those of {first}.",
                f"Give for each {first}.0, {first}.1, … the others with the same number.",
            )
    if TARGETS in arrays and {*arrays[TARGETS]} != numbers:
        raise DataError(
            "The targets do not come in the groups of the inputs.", "Give targets.0 beside the inputs' .0, …"
        )


def _group(graph: Graph, arrays: _Arrays, number: int | None) -> Batch:
    """The inputs of one group, as many samples of each."""
    found: list[Tensor] = []
    counts: dict[str, int] = {}
    for spec, batched in zip(graph.inputs, graph.batched, strict=True):
        given = arrays[spec.name]
        each = _input(given[number if number in given else None], spec, batched, len(graph.inputs) == 1)
        if batched:
            counts[spec.name] = len(each)
        found.append(each)
    if len({*counts.values()}) > 1:
        (one, n), (other, m) = next((a, b) for a, b in itertools.pairwise(counts.items()) if a[1] != b[1])
        raise DataError(
            f"There are {n} samples of {one} but {m} of {other}.",
            "Give every input for the same samples, in the same order.",
        )
    return tuple(found)


def _list(names: Collection[str]) -> str:
    shown = sorted(names)[:8] if not isinstance(names, list) else names
    return ", ".join(name[:60] for name in shown) + (", …" if len(shown) < len(names) else "")


def _wanted(graph: Graph) -> str:
    """What to send for this program."""
    if len(graph.inputs) == 1:
        return _HINT
    arrays = ", ".join(f"`{spec.name}`" for spec in graph.inputs)
    return f"Send a .safetensors or .npz file with an array for each input, {arrays}, and, to measure, `targets`."


def _read(path: Path, limits: Limits, known: Collection[str]) -> dict[str, Tensor]:
    with path.open("rb") as file:
        head = file.read(9)
    if not head:
        raise DataError("The file is empty.", _HINT)
    if head.startswith(b"PK"):
        return _npz(path, limits, known)
    if statedict.is_safetensors(head):
        return statedict.from_safetensors(path, limits)
    raise DataError("The data are neither safetensors nor .npz.", _HINT)


def _npz(path: Path, limits: Limits, known: Collection[str]) -> dict[str, Tensor]:
    """The arrays of an .npz: no pickles, no more bytes than a bound, headers read as literals only."""
    most = min(limits.memory, _UNPACKED * path.stat().st_size + MIB)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            names = [info.filename.removesuffix(".npy") for info in infos]
            others = [name for name in names if _GROUPED.sub(r"\1", name) not in known]
            if others or len({*names}) < len(names) or len(names) > limits.tensors:
                inputs = ", ".join(sorted({*known} - {INPUTS, TARGETS}))
                raise DataError(
                    f"The .npz holds something else than inputs and targets: {', '.join(map(repr, others[:8]))[:300]}.",
                    f"{_HINT} Instead of `inputs` the names of the model's own may stand: {inputs}.",
                )
            if sum(info.file_size for info in infos) > most:
                raise DataError("The .npz unpacks to far more bytes than it has.", "Save it with numpy.savez.")
            return {info.filename.removesuffix(".npy"): _npy(archive, info) for info in infos}
    except _DAMAGED as error:
        raise DataError("The .npz is cut or damaged.", _HINT) from error


def _npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor:
    with archive.open(info) as entry:
        data = entry.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise DataError("The .npz unpacks to another size than it declares.", "Save it with numpy.savez.")
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise DataError("The .npz is of a version that is not read.", "Save it with numpy.savez.")
    shape, _, dtype = read_header[version](stream, max_header_size=_HEADER)
    if dtype.hasobject or dtype.names or dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise DataError(f"The .npz holds {str(dtype)[:40]}, not numbers.", "Save plain numeric arrays.")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise DataError("An array of the .npz declares another size than it has.", "Save it with numpy.savez.")
    stream.seek(0)
    array = np.lib.format.read_array(stream, allow_pickle=False)
    return torch.from_numpy(np.ascontiguousarray(array.astype(dtype.newbyteorder("="))))


def _input(found: Tensor, spec: Input, batched: bool, only: bool) -> Tensor:
    """Values of an input as the program takes them; of the `only` one errors speak as of the inputs."""
    said = "inputs are" if only else f"{spec.name} are"
    sizes = [
        "n" if batched and dim == 0 else "any" if size is None else str(size) for dim, size in enumerate(spec.shape)
    ]
    takes = f"the model takes ({', '.join(sizes)})"
    if not _fits(found.shape, spec, batched):
        last = (*found.shape[:1], *found.shape[-1:], *found.shape[1:-1])
        hint = "The channels come first there: numpy.moveaxis(x, -1, 1)." if _fits(last, spec, batched) else _HINT
        raise DataError(f"The {said} {tuple(found.shape)}; {takes}.", hint)
    _check(found, "inputs" if only else spec.name)
    have, want = str(found.dtype).removeprefix("torch."), spec.dtype
    if have == want:
        return found
    wanted = getattr(torch, want)
    if wanted.is_floating_point and have in _CONVERTED:
        found = found.to(wanted)
        _check(found, f"{spec.name}, as {want},")
        return found
    if want == "bool" and not found.is_floating_point() and bool(((found == 0) | (found == 1)).all()):
        return found.to(wanted)
    if not wanted.is_floating_point and not found.is_floating_point() and want in ("int32", "int64"):
        return found.to(wanted)
    raise DataError(f"The {said} {have}; the model takes {want}.", f"Convert them to {want}.")


def _fits(shape: Collection[int], spec: Input, batched: bool) -> bool:
    """Whether a value of this shape can be what `spec` says, with any number of samples."""
    if len(shape) != len(spec.shape):
        return False
    pairs = enumerate(zip(shape, spec.shape, strict=True))
    return all(want is None or have == want or (batched and dim == 0) for dim, (have, want) in pairs)


def targets_for(found: Tensor, n: int) -> Tensor:
    """Targets of n inputs as they are measured by (see `read_data`). Raises DataError."""
    if found.dim() == 0 or len(found) != n:
        raise DataError(f"There are {n} inputs but {len(found) if found.dim() else 1} targets.", _HINT)
    _check(found, "targets")
    if found.is_floating_point():
        return found.to(torch.float32)
    # What a mask leaves out, which cannot say -100.
    ignored = (found == 255) if found.dtype == torch.uint8 and found.dim() > 1 else None
    found = found.to(torch.int64)
    return found if ignored is None else found.masked_fill(ignored, -100)


def _check(found: Tensor, name: str) -> None:
    if found.nelement() == 0:
        raise DataError(f"The {name} are empty.", _HINT)
    if found.is_complex() or found.is_quantized:
        raise DataError(f"The {name} are not real numbers.", _HINT)
    if found.is_floating_point() and found.dtype not in _FLOATS:
        raise DataError(f"The {name} are {str(found.dtype).removeprefix('torch.')}, which is not read.", _HINT)
    if found.is_floating_point() and not bool(torch.isfinite(found).all()):
        raise DataError(f"The {name} hold NaN or infinity.", "Remove those samples.")
