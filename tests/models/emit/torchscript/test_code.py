from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightrank.models.emit.torchscript import code
from rightrank.models.program.calls import CONVOLUTION
from rightrank.models.program.graph import Node, Ref

SUFFIXES = ["", "_down", "_up"]


@pytest.mark.parametrize("text", ['"', "\\", "a\n", "x" * 129])
def test_a_text_that_no_reader_lets_in_is_never_written(text: str) -> None:
    with pytest.raises(ValueError, match="no call may pass"):
        code.render(text, {})


@given(st.lists(st.text("ab._1", max_size=6) | st.sampled_from(["a_down", "a.down", "a", "self", "def"]), unique=True))
def test_no_tensors_attribute_is_anothers_nor_another_factors(qualified: list[str]) -> None:
    names = code.attribute_names(qualified, SUFFIXES)
    everything = [name + suffix for name, suffix in itertools.product(names.values(), SUFFIXES)]
    assert len({*everything} | code.RESERVED) == len(everything) + len(code.RESERVED)
    assert all(name.isidentifier() and name[0].isalpha() for name in everything)


def test_a_name_that_syntax_allows_is_kept() -> None:
    assert code.attribute_names(["conv1.weight", "conv1_weight"], SUFFIXES) == {
        "conv1.weight": "conv1_weight",
        "conv1_weight": "conv1_weight_2",
    }


def test_a_convolution_is_called_by_the_name_for_its_dimensions_and_a_transposed_one_is_not() -> None:
    names = {"x": "v0", "w": "self.w", "y": "v1"}
    for transposed, expected in (
        (False, "    v1 = torch.conv1d(v0, self.w, None, [2], [1], [1], 4)\n"),
        (True, "    v1 = torch.convolution(v0, self.w, None, [2], [1], [1], True, [0], 4)\n"),
    ):
        arguments = (Ref("x"), Ref("w"), None, (2,), (1,), (1,), transposed, (0,), 4)
        assert code.call(Node("y", CONVOLUTION, arguments, (), ("y",)), names) == expected
