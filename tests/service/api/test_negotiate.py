"""`Accept` names a format by its media type, or none."""

from __future__ import annotations

import pytest

from rightrank.service.api.negotiate import preferred

OFFERS = {"application/onnx": "onnx", "application/x-pt2": "pt2"}


@pytest.mark.parametrize(
    ("lines", "format"),
    [
        ([], None),
        ([""], None),
        (["*/*"], None),
        (["application/*", "text/html"], None),
        (["application/onnx"], "onnx"),
        (["Application/ONNX"], "onnx"),
        (["text/html, application/onnx;q=0.2"], "onnx"),
        (["application/onnx;q=0.2", "application/x-pt2; q=0.9"], "pt2"),
        (["application/onnx;q=0.5,application/x-pt2;q=0.5"], "onnx"),
        (["application/onnx;q=0"], None),
        (["application/onnx;q=0.000, */*"], None),
        (["application/onnx;version=1;q=0.1, application/x-pt2;q=.9"], "pt2"),
        (["application/onnx;q=abc"], "onnx"),
        (["application/onnxx", "xapplication/onnx"], None),
        (["/", ";", ",,,", "application/"], None),
    ],
)
def test_the_format_of_the_greatest_weight_counts(lines: list[str], format: str | None) -> None:
    assert preferred(lines, OFFERS) == format
