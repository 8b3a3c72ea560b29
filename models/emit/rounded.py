"""Weights and factors rounded to eight bits, as a store has them (see `master.rounded`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import save_file

from rightrank.models.emit.encoding.encoding import coarsened
from rightrank.models.emit.encoding.nested import Nested
from rightrank.models.errors import PrecisionError
from rightrank.models.master import entries
from rightrank.models.master.master import Master
from rightrank.models.master.rounded import ROUNDED, Rounded
from rightrank.models.master.template import Template
from rightrank.models.program.dtypes import DTYPES


def save(folder: Path) -> None:
    """Rounds what the master in a folder has of weights of float32, and says so in its template; nothing where it has
    none. Numbers that eight bits have no levels for are left to the cut, which says so."""
    master = Master.open(folder)
    template, encoding = master.template, Nested()
    found: dict[str, NDArray[Any]] = {}
    for source, dtype, shape, axis in _sources(template):
        try:
            array = master.file.array(source, DTYPES[dtype].width).reshape(shape)
            parts = encoding.encode(array, dtype)
        except PrecisionError:
            continue
        found |= Rounded.made(parts[""], parts["scale"], axis).entries(source)
    if found:
        save_file(found, folder / ROUNDED)
        replace(template, rounded=True).save(folder)


def _sources(template: Template) -> Iterator[tuple[str, str, tuple[int, ...], int | None]]:
    """The entries of weights and factors, their types and shapes, and the axis along which their bases lie."""
    for layer in template.layers:
        spec = template.tensors[layer.weight]
        if not coarsened(spec.dtype, len(spec.shape)):
            continue
        learnt = template.tuned is not None and layer.weight in template.tuned.tensors
        yield template.entry(layer.weight), spec.dtype, spec.shape, None
        if learnt:
            yield entries.tuned(layer.weight), spec.dtype, spec.shape, None
        for side, shape in layer.factor_shapes(layer.rank).items() if layer.decomposed else ():
            source, axis = entries.factor(side, layer.name), layer.axis_of_bases(side)
            if axis is not None:
                yield source, spec.dtype, shape, axis
                if template.tuned is not None:
                    yield entries.tuned(source), spec.dtype, shape, axis
