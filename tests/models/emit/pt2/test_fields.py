from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rightrank.models.emit.pt2.fields import Fields


@given(st.integers(1, 500), st.integers(1, 300))
def test_a_text_is_as_long_at_every_rank(most: int, times: int) -> None:
    fields = Fields()
    text = f"[{fields.mark(times * np.arange(1, most + 1))},{fields.mark(7)}]"
    found = [fields.fill(text, rank) for rank in {1, most // 2 + 1, most}]
    assert len({*map(len, found)}) == 1
    assert fields.fill(text, most).replace(" ", "") == f"[{times * most},7]"
