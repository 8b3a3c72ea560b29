from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightrank.service.api.conditions import matches, span, unmet
from rightrank.service.problems import Problem

ETAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, False), ("*", True), (' * ', True), (ETAG, True), (f"W/{ETAG}", True), (f'"x", {ETAG}', True),
     (f'"x",W/{ETAG}', True), ('"abcd"', False), ("abc", False), ("", False), ('"x, abc"', False)],
)  # fmt: skip
def test_if_none_match_compares_weakly_with_any_of_its_tags(header: str | None, expected: bool) -> None:
    assert matches(header, ETAG) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, False), ("*", False), (ETAG, False), (f'"x", {ETAG}', False), (f"W/{ETAG}", True), ('"abcd"', True),
     ("", True), ("abc", True), (f'W/{ETAG}, {ETAG}', False)],
)  # fmt: skip
def test_if_match_compares_strongly(header: str | None, expected: bool) -> None:
    assert unmet(header, ETAG) is expected


@given(start=st.integers(0, 200), length=st.integers(1, 200), size=st.integers(1, 200))
def test_a_range_is_never_more_than_asked_nor_more_than_there_is(start: int, length: int, size: int) -> None:
    asked = f"bytes={start}-{start + length - 1}"
    if start >= size:
        with pytest.raises(Problem):
            span(asked, None, ETAG, size)
        return
    assert span(asked, None, ETAG, size) == (start, min(start + length, size))


@given(last=st.integers(1, 300), size=st.integers(1, 200))
def test_a_suffix_range_ends_at_the_end(last: int, size: int) -> None:
    assert span(f"bytes=-{last}", None, ETAG, size) == (max(size - last, 0), size)


@given(st.text(max_size=40))
def test_no_header_breaks_it(text: str) -> None:
    try:
        found = span(text, None, ETAG, 10)
    except Problem as problem:
        assert problem.kind == "range-unsatisfiable"
    else:
        assert found is None or 0 <= found[0] < found[1] <= 10


@pytest.mark.parametrize(
    ("if_range", "expected"),
    [(None, (2, 5)), (ETAG, (2, 5)), ('"x"', None), (f"W/{ETAG}", None), ("Tue, 24 Nov 2026 05:00:00 GMT", None)],
)
def test_if_range_compares_strongly(if_range: str | None, expected: tuple[int, int] | None) -> None:
    assert span("bytes=2-4", if_range, ETAG, 10) == expected


@pytest.mark.parametrize("asked", [f"bytes={'9' * 5000}-", f"bytes=-{'9' * 5000}", f"bytes=0-{'9' * 5000}"])
def test_numbers_that_nobody_can_mean_are_answered_with_the_whole(asked: str) -> None:
    assert span(asked, None, ETAG, 10) is None
