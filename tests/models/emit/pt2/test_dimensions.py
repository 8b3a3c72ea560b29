from __future__ import annotations

import json

import numpy as np
import pytest

from rightrank.models.checkpoint.expressions import is_plain, symbol_of
from rightrank.models.emit.pt2.dimensions import Dimensions, strides
from rightrank.models.emit.pt2.fields import Fields
from rightrank.models.master.values import RANK, Expression

SOME = Dimensions({"s0": 2, "s1": 6}, ["u0"])


def expression(size: Expression) -> tuple[str, int | None]:
    found = json.loads(SOME.size(size))["as_expr"]
    return found["expr_str"], None if found["hint"] is None else found["hint"]["as_int"]


def test_a_number_is_a_number_and_a_free_size_a_symbol() -> None:
    assert json.loads(SOME.size(5)) == {"as_int": 5}
    assert expression("s1") == ("Symbol('s1', positive=True, integer=True)", 6)
    assert expression("u0") == ("Symbol('u0', integer=True)", None)
    assert symbol_of(expression("s0")[0]) == "s0"


@pytest.mark.parametrize(
    ("size", "hint"),
    [(("Mul", 3, "s0", "s1"), 36), (("Add", 1, "s1"), 7), (("FloorDiv", "s1", 2), None), (("Mul", 2, "u0"), None)],
)
def test_expressions_are_plain_to_the_reader_and_say_what_they_were(size: Expression, hint: int | None) -> None:
    text, said = expression(size)
    assert is_plain(text) and not symbol_of(text)
    assert said == hint


def test_the_rank_is_a_number_wherever_it_stands() -> None:
    ranks, fields = np.arange(1, 21), Fields()
    alone = fields.fill(SOME.size(("Mul", 4, RANK), ranks, fields), 5)
    within = fields.fill(SOME.size(("Mul", 2, "s0", RANK), ranks, fields), 5)
    assert json.loads(alone) == {"as_int": 20}
    text = json.loads(within)["as_expr"]["expr_str"]
    assert text.replace(" ", "") == "Mul(Integer(10),Symbol('s0',positive=True,integer=True))"


def test_strides_are_products_of_the_sizes_behind() -> None:
    assert strides(["s0", 3, 4, 5]) == [60, 20, 5, 1]
    assert strides([2, "s1", 4]) == [("Mul", 4, "s1"), 4, 1]
    assert strides(["s0", 3, "u0", "s1"]) == [("Mul", 3, "s1", "u0"), ("Mul", "s1", "u0"), "s1", 1]
    assert [each.tolist() if isinstance(each, np.ndarray) else each for each in strides([7, np.array([1, 2]), 3])] == [
        [3, 6],
        3,
        1,
    ]
