from __future__ import annotations

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from rightrank.models.checkpoint.expressions import is_plain, symbol_of


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "FloorDiv(Add(Symbol('s0', integer=True), Integer(-1)), Integer(2))",
        "OpaqueUnaryFn_sqrt(Float('0.5', precision=53))",
        "2*s0 // 4 - (u3 % 2)",
        "Max(1, s0) + Min(s1, 5) ** 2",
        "s0 != 1",
        "SomeFunctionOfALaterTorch(s0)",
    ],
)
def test_arithmetic_is_plain_whatever_its_functions(text: str) -> None:
    assert is_plain(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s0.x",
        "1.real",
        "s0[0]",
        "__import__('os')",
        "Symbol('s0').__class__",
        "lambda: 0",
        "s0; s1",
        'Symbol("s0")',
        "f'{s0}'",
        "(x := 1)",
        "s0\nimport os",
        "s0\n",
        "ſ0",
        "x" * 10_000,
        "(" * 10_000 + "1" + ")" * 10_000,
    ],
)
def test_what_could_reach_anything_if_it_were_evaluated_is_not_plain(text: str) -> None:
    assert not is_plain(text)
    assert not symbol_of(text)


def test_only_a_name_alone_may_be_any_number() -> None:
    for text in ("s0", "zuf3", "Symbol('s0')", "Symbol('s0', positive=True, integer=True)"):
        assert is_plain(text) and symbol_of(text)
    for text in (
        *("4*s0", "Mul(Integer(4), Symbol('s0'))", "Symbol('s0') + Symbol('s1')", "4", "true", "s0 ", "S0"),
        *("Symbol('s0', positive=exit)", "Symbol('a b')", "Symbol(exec('1'))", "exec('1')"),
    ):
        assert is_plain(text) and not symbol_of(text)


@given(st.text(alphabet="s01+-*/%()', =Symbolexec.[]_\n\"", max_size=40))
def test_nothing_plain_has_an_attribute_an_index_a_dunder_or_a_second_line(text: str) -> None:
    if is_plain(text):
        assert not set('["\n') & set(text) and "__" not in text
        assert not any(a == "." and not b.isdigit() for a, b in zip(text, text[1:], strict=False))


def test_sizes_of_a_real_export_are_plain() -> None:
    class Halves(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x[::2], x[1::2]])[: x.size(0) // 2]

    program = torch.export.export(Halves(), (torch.zeros(8, 2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    written = {
        sympy.printing.repr.srepr(size.node.expr)
        for node in program.graph.nodes
        for size in getattr(node.meta.get("val"), "shape", ())
        if isinstance(size, torch.SymInt)
    }
    assert len(written) > 1 and all(map(is_plain, written))
    assert len([text for text in written if symbol_of(text)]) == 1
