"""Every method that the benchmark has, by name, and the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.bytes import blob, ours, rivals
from benchmarks.bytes.quantise import MOST
from benchmarks.bytes.study import Found, Study
from benchmarks.bytes.subjects import EFFORTS


@dataclass(frozen=True)
class Method:
    """The sizes that it has for a network, in words, and the file of one of them; `needs` is the Python of another
    environment, where it runs in one."""

    sizes: Callable[[Study], Sequence[str]]
    make: Callable[[Study, str], Found]
    needs: Path | None = None


def of_ours(precision: str, effort: str) -> Method:
    def sizes(study: Study) -> Sequence[str]:
        return ours.sizes(study, precision, effort) if effort in study.subject.efforts else ()

    return Method(sizes, partial(ours.made, precision=precision, effort=effort))


RIVALS: Mapping[str, Method] = {
    **{
        f"{width} {way}": Method(lambda study: blob.KINDS, partial(rivals.quantised, width=width, feedback=feedback))
        for width in MOST
        for way, feedback in (("rounded", False), ("fed back", True))
    },
    "onnxruntime int8": Method(lambda study: ("",), rivals.onnxruntime, rivals.ONNX),
    "nncodec": Method(lambda study: [f"{rivals.QP}{qp}" for qp in rivals.QPS], rivals.nncodec, rivals.NNCODEC),
}
OURS: Mapping[str, Method] = {
    f"{precision} {effort}": of_ours(precision, effort)
    for precision in ours.PRECISIONS
    for effort in (EFFORTS if precision == ours.AUTO else ("cut", "refit"))
}
# Rivals first, at whose bytes ours are made.
METHODS: Mapping[str, Method] = {**RIVALS, **OURS}
# As they are shown.
ORDER = (*OURS, *RIVALS)
