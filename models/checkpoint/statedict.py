"""Weights without a network: safetensors, or the dictionary that `torch.save(model.state_dict())` writes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from torch import Tensor

from rightrank.models.checkpoint import pickles, strictjson
from rightrank.models.checkpoint.advice import CUT, EXPORT, STATE
from rightrank.models.checkpoint.archive import Archive
from rightrank.models.checkpoint.fit import Keys, States
from rightrank.models.checkpoint.limits import OVERLAP_BYTES, PICKLE_BYTES, Limits
from rightrank.models.errors import MalformedCheckpoint, UnsafeCheckpoint, UnsupportedCheckpoint

_HEADER_BYTES = 100_000_000
# Of dictionaries in dictionaries: a trainer's state of a model's of a part's.
_DEPTH = 3


def is_safetensors(head: bytes) -> bool:
    return len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _HEADER_BYTES


def from_safetensors(path: Path, limits: Limits) -> dict[str, Tensor]:
    """The tensors by name. Raises MalformedCheckpoint, UnsafeCheckpoint."""
    check_safetensors(path, limits)
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def check_safetensors(path: Path, limits: Limits) -> None:
    """The header names tensors that lie one after the other and fill the file, as the format demands."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            raise MalformedCheckpoint("The safetensors file is cut short.", CUT)
        header = strictjson.loads(file.read(length), "The safetensors header")
    if not isinstance(header, dict):
        raise MalformedCheckpoint("The safetensors header is not an object.", CUT)
    header.pop("__metadata__", None)
    if len(header) > limits.tensors:
        raise UnsafeCheckpoint(f"The file holds {len(header)} tensors; at most {limits.tensors} are read.")
    try:
        with safetensors.safe_open(path, framework="pt"):
            pass
    except (safetensors.SafetensorError, OSError) as error:
        raise MalformedCheckpoint("The safetensors header does not fit the file.", CUT) from error


def from_archive(archive: Archive, file: BinaryIO, limits: Limits) -> States:
    """The tensors by name, of each dictionary that has some. Raises as `unpickled`."""
    states = _states(unpickled(archive, file))
    tensors = [tensor for state in states.values() for tensor in state.values()]
    check_tensors(tensors, archive, limits)
    return states


def unpickled(archive: Archive, file: BinaryIO) -> Any:
    """What torch.save wrote, where that can be nothing but tensors and plain values. Its tensors' sizes are unchecked.
    Raises UnsafeCheckpoint, UnsupportedCheckpoint, MalformedCheckpoint."""
    _check_layout(archive)
    pickles.check(archive.read("data.pkl", PICKLE_BYTES))
    for name in archive:
        archive.read(name)
    file.seek(0)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # The unpickler raises whatever a crooked pickle makes it stumble over.
        raise MalformedCheckpoint("The file's pickle does not describe tensors.", CUT) from error


def check_tensors(tensors: Collection[Tensor], archive: Archive, limits: Limits) -> None:
    """Raises UnsafeCheckpoint where they are too many, or more than the archive can hold."""
    if len(tensors) > limits.tensors:
        raise UnsafeCheckpoint(f"The file holds {len(tensors)} tensors; at most {limits.tensors} are read.")
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise UnsupportedCheckpoint("A tensor of the file is sparse, quantised or complex.", STATE)
    distinct = {(t.data_ptr(), t.dtype, t.shape, t.stride()): t.nelement() * t.element_size() for t in tensors}
    if sum(distinct.values()) > OVERLAP_BYTES + sum(archive.size(name) for name in archive):
        raise UnsafeCheckpoint("The tensors unfold to far more bytes than the file has.")


def _check_layout(archive: Archive) -> None:
    names = list(archive)
    if any(name.startswith("code/") or name == "constants.pkl" for name in names):
        raise UnsupportedCheckpoint("The file is TorchScript, which is code.", EXPORT)
    if any(name.startswith("serialized_") for name in names):
        raise UnsupportedCheckpoint("The file was written by torch.export.save of an old torch.", EXPORT)
    if "data.pkl" not in archive:
        raise UnsupportedCheckpoint("The file is a zip archive of something else.", EXPORT)
    for name in names:
        folder, _, rest = name.partition("/")
        known = name in ("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment")
        if not known and not (folder == "data" and rest.isdecimal()) and folder != ".data":
            raise UnsafeCheckpoint(f"The archive has an entry {name[:80]!r} that a state dict does not have.")
    if "byteorder" in archive and bytes(archive.read("byteorder", 64)) != b"little":
        raise UnsupportedCheckpoint("The file was written on a big-endian machine.", STATE)


def _states(loaded: Any) -> dict[Keys, dict[str, Tensor]]:
    """The tensors of every dictionary in the file, by the keys that lead to it."""
    found: dict[Keys, dict[str, Tensor]] = {}
    seen = set()
    waiting: list[tuple[Keys, Any]] = [((), loaded)]
    while waiting:
        keys, value = waiting.pop()
        if not isinstance(value, dict) or len(keys) > _DEPTH or id(value) in seen:
            continue
        seen.add(id(value))
        named = {name: each for name, each in value.items() if isinstance(name, str)}
        if tensors := {name: each for name, each in named.items() if isinstance(each, Tensor)}:
            found[keys] = tensors
        waiting += [((*keys, name), each) for name, each in named.items()]
    if not found:
        raise MalformedCheckpoint("The file holds no state dict.", STATE)
    return found
