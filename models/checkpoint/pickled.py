"""The tensors of an exported program as torch wrote them before 2.9: a dictionary by torch.save, inside the archive.

It is read as an uploaded state dict is: its opcodes are checked, then `torch.load(weights_only=True)`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

from rightrank.models.checkpoint import statedict
from rightrank.models.checkpoint.advice import EXPORT
from rightrank.models.checkpoint.archive import Archive
from rightrank.models.checkpoint.limits import DIMENSIONS, OTHER_ENTRIES, Limits
from rightrank.models.errors import CheckpointError, UnsupportedCheckpoint
from rightrank.models.program.dtypes import DTYPES


def read(archive: Archive, entry: str, limits: Limits) -> dict[str, Tensor]:
    """The tensors by qualified name, views of one storage still so. Raises what `statedict.unpickled` does, and
    UnsupportedCheckpoint for a dictionary of anything else."""
    if not archive.size(entry):
        return {}
    file = archive.open(entry)
    try:
        inside = Archive(file, limits.tensors + OTHER_ENTRIES)
        found = statedict.unpickled(inside, file)
        if not isinstance(found, dict) or not all(_is_read(name, each) for name, each in found.items()):
            raise UnsupportedCheckpoint("It holds something else than tensors of numbers by name.")
        statedict.check_tensors(found.values(), inside, limits)
    except CheckpointError as error:
        raise type(error)(f"The archive's {entry}: {error.detail}", EXPORT) from error
    return {name: _plain(tensor) for name, tensor in found.items()}


def places(tensors: Mapping[str, Tensor]) -> dict[str, Hashable]:
    """Where each lies: what is the same for two names of one tensor."""
    return {name: (t.data_ptr(), t.dtype, t.shape, t.stride()) for name, t in tensors.items()}


def contiguous(tensor: Tensor) -> Tensor:
    """The tensor alone in a storage of its own."""
    alone = tensor.untyped_storage().nbytes() == tensor.nelement() * tensor.element_size()
    return tensor if alone and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


def _is_read(name: object, value: object) -> bool:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    return str(value.dtype).removeprefix("torch.") in DTYPES and value.dim() <= DIMENSIONS


def _plain(tensor: Tensor) -> Tensor:
    """Without a gradient to come; a bool with any other byte than 0 and 1 is undefined behaviour in C++."""
    if tensor.dtype == torch.bool:
        return tensor.detach().view(torch.uint8).ne(0)
    return tensor.detach()
