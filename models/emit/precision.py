"""Precisions: what a request calls the ways in which a file's numbers can be stored.

A model's own, in which they are as they were uploaded, is called by the type that most of them have: mostly float32.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from rightrank.models.emit.encoding import encoding_of
from rightrank.models.emit.format import FIRST, PLAIN, Output
from rightrank.models.errors import PrecisionError
from rightrank.models.master.template import Template
from rightrank.models.program.dtypes import DTYPES

FULL = "float32"
# Ranks and steps mixed as suits the size best.
MIXED = "auto"
# The first writer of TorchScript that has other encodings than numbers as they are.
WRITER = 2
# By name, the encoding. A new one is a line.
PRECISIONS: dict[str, str] = {FULL: PLAIN, "float16": "half", "int8": "int8", MIXED: "levels"}
# Those that are something else where weights were rounded at ingest.
NESTED: dict[str, str] = {"int8": "int8-nested"}
# All that a model's files may be asked in.
NAMES = (*PRECISIONS, *(name for name, row in DTYPES.items() if row.floating and name not in PRECISIONS))


def precisions(template: Template, mixed: bool) -> Mapping[str, str]:
    """Those that the files of a model can have, its own first, with their encodings: without those that would leave
    every layer's weight as it is, and with levels where it has some (`mixed`)."""
    tensors = template.original.tensors.values()
    counts: Counter[str] = Counter()
    for spec in tensors:
        if DTYPES[spec.dtype].floating:
            counts[spec.dtype] += math.prod(spec.shape)
    own = max(counts, key=counts.__getitem__, default=FULL)
    known = PRECISIONS | NESTED if template.rounded else PRECISIONS
    others = {name: encoding for name, encoding in known.items() if name != own and (mixed or name != MIXED)}
    weights = [template.tensors[layer.weight] for layer in template.layers]
    return {own: PLAIN} | {
        name: encoding
        for name, encoding in others.items()
        if any(encoding_of(encoding).parts(spec) != {"": spec} for spec in weights)
    }


def mixable(template: Template) -> bool:
    """Whether ranks and steps can be mixed: there are layers that can be cut, and all of them are of float32."""
    return bool(template.decomposed) and all(
        template.tensors[layer.weight].dtype == FULL for layer in template.decomposed
    )


def written_in(exact: Output, encoding: str) -> Output:
    """What files are written as in an encoding, of a model whose exact ones are written so."""
    if encoding == exact.encoding:
        return exact
    writer = max(exact.writer, WRITER) if exact.format == FIRST.format else exact.writer
    return replace(exact, encoding=encoding, writer=writer)


def encoding_in(found: Mapping[str, str], precision: str) -> str:
    """The encoding of one of a model's `precisions`. Raises PrecisionError for one that is not among them."""
    if precision not in found:
        raise PrecisionError(
            f"This model's files cannot have the precision {precision[:40]!r}.", f"They have {', '.join(found)}."
        )
    return found[precision]
