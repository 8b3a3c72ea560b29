"""The exact size of every file of a template, before any is written.

Data records start at multiples of 64, and lines and pickled fields of one layer do not depend on another, nor on its
rank: so a file's size is a sum over its layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rightrank.models.emit import archive
from rightrank.models.emit.format import Sizes
from rightrank.models.emit.torchscript import pickle
from rightrank.models.emit.torchscript.script import TOP, DataRecord, Script, declared, entry, quoted, record_name
from rightrank.models.master.template import Template, TensorSpec
from rightrank.models.program.dtypes import DTYPES


def sizes(template: Template, script: Script) -> Sizes:
    layers = template.decomposed
    none = [0] * len(layers)
    whole = script.records(script.slots.at(none))
    by_tensor: dict[str, list[DataRecord]] = {}
    for record in whole:
        by_tensor.setdefault(record.slot.tensor, []).append(record)
    tables = [
        np.full(layer.break_even + 1, more) for layer, more in zip(layers, _more_text(template, script), strict=True)
    ]
    total = _text(script, none, whole) + archive.END.size
    total += archive.padding(0, record_name(0)) if whole else 0
    for number, name in enumerate(script.slots.tensors):
        after, spec = script.key_after(number), template.tensors[name]
        dense = _data(script, number, [spec], after)
        total += int(dense)
        position = script.slots.position(name)
        if position is None:
            continue
        layer = layers[position]
        ranks = np.arange(1, layer.break_even + 1, dtype=np.int64)
        factors = [TensorSpec(spec.dtype, shape) for shape in layer.form.shapes(layer, ranks)]
        tables[position][1:] += _data(script, number, factors, after) - dense
    for table in tables:
        table[0] = 0
    return Sizes(total, tables, card=sum(archive.stored(f"{TOP}/{name}", data) for name, data in script.extra()))


def _data(script: Script, number: int, specs: Sequence[TensorSpec], after: int | None) -> Any:
    """Bytes of all records of one tensor, which are of these types and sizes: a number, or one for each rank where
    sizes are."""
    parts = [part for spec in specs for part in script.encoding.parts(spec).values()]
    keys = [script.stride * number + count for count in range(len(parts))]
    total: Any = 0
    for part, key, following in zip(parts, keys, [*keys[1:], after], strict=True):
        count = np.asarray(math.prod(part.shape), dtype=np.int64)
        after_it = None if following is None else record_name(following)
        total = total + archive.span(count * DTYPES[part.dtype].width, record_name(key), after_it)
    return total


def _text(script: Script, ranks: Sequence[int], records: Sequence[DataRecord]) -> int:
    texts = script.text_records(ranks, records)
    return sum(archive.stored(f"{TOP}/{name}", text) for name, text in texts)


def _more_text(template: Template, script: Script) -> list[int]:
    """The bytes of text that each layer takes more factored than whole."""
    count = len(template.decomposed)
    memo = pickle.Memo()
    whole = script.records(script.slots.at([0] * count))
    for record in whole:
        entry(memo, record)  # what is written once for all is so by now
    more = [0] * count
    for sign, records in ((-1, whole), (1, script.records(script.slots.at([1] * count)))):
        for record in records:
            index = script.slots.position(record.slot.tensor)
            if index is not None:
                name, value = entry(memo, record)
                text = declared(record) + quoted([record.attribute])
                more[index] += sign * (len(pickle.string(name)) + len(value) + len(text.encode()))
        for record in filter(script.leads, records):
            index = script.slots.position(record.slot.tensor)
            if index is not None:
                more[index] += sign * len(script.decoding(record.slot).encode())
    for index, plain, factored in script.calls:
        if index is not None:
            more[index] += len(factored.encode()) - len(plain.encode())
    return more
