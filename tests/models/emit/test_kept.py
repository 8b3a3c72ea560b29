from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rightrank.models.emit import kept
from rightrank.models.emit.kept import Kept
from rightrank.models.master.template import Template
from tests.models.nets import Shared, planner


def test_the_last_are_kept_each_for_its_own_template(tmp_path: Path) -> None:
    template = Template.open(planner(Shared, tmp_path)[1])
    some: Kept[list[int]] = Kept()
    first = some.of(template, "a", lambda: [1])
    assert some.of(template, "a", lambda: [2]) is first
    assert some.of(template, "b", lambda: [3]) == [3]
    same = replace(template)
    assert some.of(same, "a", lambda: [4]) == [4] and some.of(template, "a", lambda: [5]) is first
    for number in range(kept.MOST):
        some.of(same, number, list)
    assert some.of(template, "a", lambda: [6]) == [6]
