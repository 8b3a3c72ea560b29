"""Weights without a network: safetensors, or the dictionary that `torch.save(model.state_dict())` writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from torch import Tensor, nn

from rightrank.models.checkpoint import pickles, strictjson
from rightrank.models.checkpoint.advice import CUT, EXPORT, STATE
from rightrank.models.checkpoint.archive import Archive
from rightrank.models.checkpoint.limits import OVERLAP_BYTES, PICKLE_BYTES, Limits
from rightrank.models.errors import MalformedCheckpoint, UnsafeCheckpoint, UnsupportedCheckpoint

_HEADER_BYTES = 100_000_000
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
# What DistributedDataParallel and torch.compile put before every name.
_PREFIXES = ("module.", "_orig_mod.")


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


def from_archive(archive: Archive, file: BinaryIO, limits: Limits) -> dict[str, Tensor]:
    """The tensors by name. Raises UnsafeCheckpoint, UnsupportedCheckpoint, MalformedCheckpoint."""
    _check_layout(archive)
    pickles.check(archive.read("data.pkl", PICKLE_BYTES))
    for name in archive:
        archive.read(name)
    file.seek(0)
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # The unpickler raises whatever a crooked pickle makes it stumble over.
        raise MalformedCheckpoint("The file's pickle does not describe tensors.", CUT) from error
    state = _tensors(loaded)
    if len(state) > limits.tensors:
        raise UnsafeCheckpoint(f"The file holds {len(state)} tensors; at most {limits.tensors} are read.")
    _check_sizes(state, sum(archive.size(name) for name in archive))
    return state


def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill the module with the weights, whose names and shapes have to be exactly the module's."""
    state = _without_prefixes(state)
    wanted = module.state_dict()
    problems = [
        *(f"missing {name}" for name in wanted if name not in state and not name.endswith("num_batches_tracked")),
        *(f"not in the architecture: {name}" for name in state if name not in wanted),
        *(
            f"{name} is {_shape(state[name])}, not {_shape(wanted[name])}"
            for name in wanted
            if name in state and state[name].shape != wanted[name].shape
        ),
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise MalformedCheckpoint(
            f"The weights do not fit the architecture: {'; '.join(problems[:5])}{more}.",
            "Check the architecture's name and arguments (num_classes, …).",
        )
    module.load_state_dict(dict(state), strict=False)


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


def _tensors(loaded: Any) -> dict[str, Tensor]:
    """The state dict itself, or inside the dictionary that training scripts wrap around it."""
    if isinstance(loaded, dict):
        inside = [loaded[key] for key in _WRAPPERS if _is_state(loaded.get(key))]
        loaded = inside[0] if inside else loaded
    if not isinstance(loaded, dict) or not loaded:
        raise MalformedCheckpoint("The file holds no state dict.", STATE)
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise MalformedCheckpoint(f"The state dict's {str(name)[:60]!r} is not a tensor.", STATE)
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise UnsupportedCheckpoint(f"The tensor {name[:60]} is sparse, quantised or complex.", STATE)
    return loaded


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(each, Tensor) for each in value.values())


def _check_sizes(state: Mapping[str, Tensor], stored: int) -> None:
    distinct = {(t.data_ptr(), t.dtype, t.shape, t.stride()): t.nelement() * t.element_size() for t in state.values()}
    if sum(distinct.values()) > stored + OVERLAP_BYTES:
        raise UnsafeCheckpoint("The tensors unfold to far more bytes than the file has.")


def _without_prefixes(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return _without_prefixes({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"
