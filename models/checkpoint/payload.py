"""The tensors of an exported program: raw bytes in the archive, described by a JSON file beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rightrank.models.checkpoint.advice import CUT
from rightrank.models.checkpoint.archive import Archive
from rightrank.models.checkpoint.fields import integer, mapping, only, sequence, text, truth
from rightrank.models.checkpoint.limits import DIMENSIONS, OVERLAP_BYTES
from rightrank.models.errors import MalformedCheckpoint, UnsafeCheckpoint, UnsupportedCheckpoint
from rightrank.models.program.dtypes import BY_SCHEMA, DTYPES

# torch/_export/serde/schema.py, Layout.
_STRIDED = 7


@dataclass(frozen=True)
class Payload:
    """Where a tensor lies: the archive entry, and the strided window of it, counted in elements."""

    entry: str
    dtype: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def reach(self) -> int:
        """Elements of the entry up to and including the last that the window touches."""
        if not self.elements:
            return 0
        return self.offset + 1 + sum((n - 1) * step for n, step in zip(self.sizes, self.strides, strict=True))


def parse(config: Any, folder: str, most: int) -> dict[str, Payload]:
    """Each tensor's payload by qualified name. Raises UnsafeCheckpoint where one is pickled."""
    entries = mapping(only(config, "config"), "the list of tensors")
    if len(entries) > most:
        raise UnsafeCheckpoint(f"The checkpoint holds {len(entries)} tensors; at most {most} are read.")
    return {name: _payload(name, entry, folder) for name, entry in entries.items()}


def load(archive: Archive, payloads: Mapping[str, Payload]) -> dict[str, Tensor]:
    """The tensors by qualified name, contiguous; names with one payload share one tensor."""
    _check_sizes(archive, payloads.values())
    made: dict[Payload, Tensor] = {}
    for entry, group in _by_entry(payloads.values()).items():
        data = archive.read(entry)
        for payload in group:
            window = _window(data, payload)
            made[payload] = window.clone() if len(group) > 1 else window
    return {name: made[payload] for name, payload in payloads.items()}


def _payload(name: str, entry: Any, folder: str) -> Payload:
    entry = mapping(entry, f"the tensor {name}")
    if truth(entry.get("use_pickle", True), f"use_pickle of {name}"):
        raise UnsafeCheckpoint(
            f"The tensor {name} is stored as a pickle, which can run code when it is opened.",
            "Make it a plain torch.Tensor (not a subclass or a custom object) before torch.export.save.",
        )
    meta = mapping(entry.get("tensor_meta"), f"the description of {name}")
    dtype = BY_SCHEMA.get(integer(meta.get("dtype"), f"the dtype of {name}"))
    if dtype is None or meta.get("layout") != _STRIDED:
        raise UnsupportedCheckpoint(
            f"The tensor {name} has a dtype or layout that is not read.",
            "Dense floating point (16 to 64 bits), integer and boolean tensors are. "
            "A complex one can be kept as torch.view_as_real of it, and made again with torch.view_as_complex.",
        )
    payload = Payload(
        entry=folder + text(entry.get("path_name"), f"the path of {name}"),
        dtype=dtype.name,
        sizes=_numbers(meta.get("sizes"), f"sizes of {name}"),
        strides=_numbers(meta.get("strides"), f"strides of {name}"),
        offset=_number(meta.get("storage_offset"), f"offset of {name}"),
    )
    if len(payload.sizes) != len(payload.strides) or len(payload.sizes) > DIMENSIONS:
        raise MalformedCheckpoint(f"The tensor {name} has {len(payload.sizes)} sizes.", CUT)
    return payload


def _number(data: Any, what: str) -> int:
    value = integer(only(data, "as_int"), what)
    if value < 0:
        raise MalformedCheckpoint(f"The {what} are negative.", CUT)
    return value


def _numbers(data: Any, what: str) -> tuple[int, ...]:
    return tuple(_number(item, what) for item in sequence(data, what))


def _check_sizes(archive: Archive, payloads: Iterable[Payload]) -> None:
    """Every window has to lie in its entry, and together they may not unfold to far more than the file."""
    total = OVERLAP_BYTES + sum(archive.size(name) for name in archive)
    for payload in set(payloads):
        width = DTYPES[payload.dtype].width
        if payload.reach * width > archive.size(payload.entry):
            raise MalformedCheckpoint(
                f"A tensor of {payload.reach * width} bytes is said to lie in {payload.entry}, "
                f"which has {archive.size(payload.entry)}.",
                CUT,
            )
        total -= payload.elements * width
        if total < 0:
            raise UnsafeCheckpoint("The tensors unfold to far more bytes than the file has.")


def _by_entry(payloads: Iterable[Payload]) -> dict[str, list[Payload]]:
    groups: dict[str, list[Payload]] = {}
    for payload in dict.fromkeys(payloads):
        groups.setdefault(payload.entry, []).append(payload)
    return groups


def _window(data: bytearray, payload: Payload) -> Tensor:
    dtype = getattr(torch, payload.dtype)
    if not payload.elements:
        return torch.empty(payload.sizes, dtype=dtype)
    if payload.dtype == "bool":
        # A bool with any other byte than 0 and 1 is undefined behaviour in C++.
        flat = torch.frombuffer(data, dtype=torch.uint8, count=payload.reach).ne(0)
    else:
        flat = torch.frombuffer(data, dtype=dtype, count=payload.reach)
    return flat.as_strided(payload.sizes, payload.strides, payload.offset).contiguous()
