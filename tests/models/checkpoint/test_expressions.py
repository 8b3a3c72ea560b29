import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rightrank.models.checkpoint.expressions import is_symbol, matches


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Mul(Integer(2), Symbol('s0', positive=True, integer=True))",
        "FloorDiv(Add(Symbol('s0', integer=True), Integer(-1)), Integer(2))",
        "s0 + 1",
        "2*s0 // 4 - (u3 % 2)",
        "Max(1, s0) + Min(s1, 5) ** 2",
        "Ne(s0, 1)",
        "-s0",
        "true",
    ],
)
def test_what_torch_writes_matches(text: str) -> None:
    assert matches(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "s0.x",
        "s0[0]",
        "__import__('os')",
        "exec('1')",
        "Symbol(",
        "s0 +",
        "s0 s1",
        "Symbol('a b')",
        "lambda: 0",
        "1 if s0 else 2",
        "s0; s1",
        "Symbol('s0', positive=s1)",
        "Add(*s0)",
        "f'{s0}'",
        "s0\nimport os",
        "x" * 10_000,
        "(" * 100 + "1" + ")" * 100,
    ],
)
def test_anything_else_does_not_match(text: str) -> None:
    assert not matches(text)


def test_only_a_name_alone_may_be_any_number() -> None:
    for text in ("s0", "zuf3", "Symbol('s0', positive=True, integer=True)"):
        assert matches(text) and is_symbol(text)
    for text in ("4*s0", "Mul(Integer(4), Symbol('s0'))", "Symbol('s0') + Symbol('s1')", "4", "true"):
        assert matches(text) and not is_symbol(text)


@given(st.text(max_size=60))
def test_no_text_breaks_the_matcher(text: str) -> None:
    assert matches(text) in (True, False)


@given(st.text(alphabet="s01+-*/%()', =Symbolexec.[]_", max_size=40))
def test_nothing_that_matches_has_an_attribute_an_index_or_a_dunder(text: str) -> None:
    if matches(text):
        assert "[" not in text and "__" not in text.replace("'", "") or "'" in text


def test_sizes_of_a_real_export_match() -> None:
    class Halves(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x[::2], x[1::2]])[: x.size(0) // 2]

    program = torch.export.export(Halves(), (torch.zeros(8, 2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    import sympy

    seen = 0
    for node in program.graph.nodes:
        value = node.meta.get("val")
        for size in getattr(value, "shape", ()):
            if isinstance(size, torch.SymInt):
                seen += 1
                assert matches(sympy.printing.repr.srepr(size.node.expr))
    assert seen
