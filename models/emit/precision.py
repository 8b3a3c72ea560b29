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
# Of fewer bits than eight without being coded, which wants a type of tensor; and those that a file computes in, for
# which there have to be operators (see `formats.offered`).
PACKED: dict[str, str] = {"int4": "int4"}
ARITHMETIC: dict[str, str] = {"w8a8": "w8a8"}
# The formats that have these.
COMPUTING = ("onnx",)
# All that a publisher may choose for requests that name none, and all that a model's files may be asked in.
_OWN = tuple(name for name, row in DTYPES.items() if row.floating and name not in PRECISIONS)
CHOICES = (*PRECISIONS, *_OWN)
NAMES = (*PRECISIONS, *PACKED, *ARITHMETIC, *_OWN)


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
    return {own: PLAIN, **_telling(template, others)}


def besides(template: Template, format: str) -> Mapping[str, str]:
    """Those that a model's files of this format have and others do not; such as a file computes in, where it is known
    what can compute so."""
    if format not in COMPUTING:
        return {}
    computes = template.integers is not None and template.integers.layers
    return {**_telling(template, PACKED), **(ARITHMETIC if computes else {})}


def _telling(template: Template, known: Mapping[str, str]) -> dict[str, str]:
    """Those in which some weight of a layer is stored otherwise than as it is."""
    weights = [template.tensors[layer.weight] for layer in template.layers]
    return {
        name: encoding
        for name, encoding in known.items()
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


def encoding_in(
    found: Mapping[str, str], precision: str, template: Template | None = None, format: str = FIRST.format
) -> str:
    """The encoding of one of a model's precisions in a format. Raises PrecisionError for one that is not among them."""
    if precision not in found:
        why = _lacking(precision, template, format)
        raise PrecisionError(
            f"This model's files cannot have the precision {precision[:40]!r}{why}.", f"They have {', '.join(found)}."
        )
    return found[precision]


def _lacking(precision: str, template: Template | None, format: str) -> str:
    """Why not, where that is known."""
    if precision == MIXED and format != FIRST.format:
        return f" in the format {format}: levels are decoded by code, which TorchScript files have"
    if template is None or precision not in (*PACKED, *ARITHMETIC):
        return ""
    if format not in COMPUTING:
        which = "of four bits" if precision in PACKED else "that compute in int8"
        return f" in the format {format}: files {which} are those of {' and '.join(COMPUTING)}"
    if precision in PACKED:
        return ""
    if template.integers is None:
        return (
            ": to compute in int8 wants the ranges of all values, which calibration inputs tell, and it was published "
            "without any, or before they were looked at"
        )
    return ": none of its layers can compute in int8 and leave the outputs as they are"
