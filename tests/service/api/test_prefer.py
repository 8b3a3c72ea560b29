from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightrank.service.api.prefer import preferences


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], {}),
        (["respond-async"], {"respond-async": ""}),
        (["Respond-Async, WAIT = 20"], {"respond-async": "", "wait": "20"}),
        (["wait=20", "respond-async"], {"wait": "20", "respond-async": ""}),
        (['wait="20"; x="a, respond-async"'], {"wait": "20"}),
        (["wait=1, wait=2"], {"wait": "1"}),
        (["handling=lenient;strict, wait=3"], {"handling": "lenient", "wait": "3"}),
        (["do-not-wait=9, no-respond-async"], {"do-not-wait": "9", "no-respond-async": ""}),
        ([",, wait=4,"], {"wait": "4"}),
    ],
)
def test_preferences_are_read_as_the_rfc_writes_them(lines: list[str], found: dict[str, str]) -> None:
    assert preferences(lines) == found


@given(st.lists(st.text(max_size=60), max_size=4))
def test_no_header_breaks_it(lines: list[str]) -> None:
    assert all(name == name.lower() for name in preferences(lines))
