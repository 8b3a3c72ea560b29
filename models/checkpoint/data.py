"""Evaluation and calibration data: `inputs`, and `targets` where there are any."""

from __future__ import annotations

import io
import lzma
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rightrank.models.checkpoint import statedict
from rightrank.models.checkpoint.limits import MIB, Limits
from rightrank.models.errors import CheckpointError, DataError
from rightrank.models.program.dtypes import DTYPES
from rightrank.models.program.graph import Graph, Input

_HINT = "Send a .safetensors or .npz file with `inputs` (n, …) and, to measure accuracy, `targets` (n)."
_NAMES = ("inputs", "targets")
# What an .npz may unpack to, next to its own size: images of 8 bits compress well, zeros infinitely.
_UNPACKED = 64
_HEADER = 4096
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(ValueError, TypeError, EOFError, OSError, NotImplementedError, RuntimeError),
)
# Exact, or (float64) what torch itself does when it makes a tensor from Python numbers.
_FLOATS = frozenset(getattr(torch, dtype.name) for dtype in DTYPES.values() if dtype.floating)
_CONVERTED = ("uint8", "float16", "bfloat16", "float64")


def read_data(path: Path, graph: Graph, limits: Limits | None = None) -> dict[str, Tensor | None]:
    """`{"inputs": (n, …) of the program's input type, "targets": (n, …) or None}`. Raises DataError.

    Integer and boolean targets become int64, where -100 stands for what is not to count (in a mask of uint8, of more
    than one dimension, 255); float targets become float32. Inputs of uint8,
    float16, bfloat16 or float64 are converted to the program's float type, values unchanged: uint8 images
    stay in 0…255, so a network that expects 0…1 has to be given floats.
    """
    limits = limits or Limits()
    try:
        found = _read(path, limits)
    except CheckpointError as error:
        raise DataError(error.detail, _HINT) from error
    if "inputs" not in found or not set(found) <= set(_NAMES):
        raise DataError(f"The data hold {', '.join(sorted(found)) or 'nothing'}.", _HINT)
    inputs, targets = inputs_for(graph, found["inputs"]), found.get("targets")
    return {"inputs": inputs, "targets": None if targets is None else targets_for(targets, len(inputs))}


def inputs_for(graph: Graph, found: Tensor) -> Tensor:
    """Inputs (n, …) as a program takes them (see `read_data`). Raises DataError."""
    if len(graph.inputs) != 1:
        raise DataError(f"The model takes {len(graph.inputs)} inputs; data can be given for one.", "Leave them out.")
    return _inputs(found, graph.inputs[0])


def _read(path: Path, limits: Limits) -> dict[str, Tensor]:
    with path.open("rb") as file:
        head = file.read(9)
    if not head:
        raise DataError("The file is empty.", _HINT)
    if head.startswith(b"PK"):
        return _npz(path, limits)
    if statedict.is_safetensors(head):
        return statedict.from_safetensors(path, limits)
    raise DataError("The data are neither safetensors nor .npz.", _HINT)


def _npz(path: Path, limits: Limits) -> dict[str, Tensor]:
    """The arrays of an .npz: no pickles, no more bytes than a bound, headers read as literals only."""
    most = min(limits.memory, _UNPACKED * path.stat().st_size + MIB)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if {info.filename for info in infos} - {f"{name}.npy" for name in _NAMES} or len(infos) > 2:
                raise DataError("The .npz holds something else than inputs and targets.", _HINT)
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


def _inputs(found: Tensor, spec: Input) -> Tensor:
    shape = ", ".join("n" if size is None or dim == 0 else str(size) for dim, size in enumerate(spec.shape))
    fits = found.dim() == len(spec.shape) and all(
        have == want for have, want in list(zip(found.shape, spec.shape, strict=True))[1:]
    )
    if not fits:
        raise DataError(f"The inputs are {tuple(found.shape)}; the model takes ({shape}).", _HINT)
    _check(found, "inputs")
    have, want = str(found.dtype).removeprefix("torch."), spec.dtype
    if have == want:
        return found
    wanted = getattr(torch, want)
    if wanted.is_floating_point and have in _CONVERTED:
        found = found.to(wanted)
        _check(found, "inputs")
        return found
    if not wanted.is_floating_point and not found.is_floating_point() and want in ("int32", "int64"):
        return found.to(wanted)
    raise DataError(f"The inputs are {have}; the model takes {want}.", f"Convert them to {want}.")


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
