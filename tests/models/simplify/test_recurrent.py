from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rightrank.models.program.calls import HANDED, RECURRENT, Recurrent
from rightrank.models.program.graph import Node, Ref
from rightrank.models.program.program import Program
from rightrank.models.simplify.normalize.binding import renamed
from rightrank.models.simplify.recurrent import apart
from rightrank.models.simplify.simplify import simplify
from tests.models.nets import recurring


def calls(program: Program) -> list[Recurrent | None]:
    return [Recurrent.of(node) for node in program.graph.nodes if node.op in RECURRENT]


@settings(max_examples=40, deadline=None)
@given(
    cell=st.sampled_from(["lstm", "gru", "rnn_tanh", "rnn_relu"]),
    levels=st.integers(1, 3),
    options=st.fixed_dictionaries({name: st.booleans() for name in ("both", "batch_first", "biased")}),
    projection=st.sampled_from([0, 6]),
)
def test_every_call_becomes_single_ones_that_compute_the_same(
    cell: str, levels: int, options: dict[str, bool], projection: int
) -> None:
    torch.manual_seed(0)
    program = recurring(cell, levels, projection=projection * (cell == "lstm"), **options)
    single = apart(program)
    found = calls(single)
    assert len(found) == levels * (1 + options["both"]) and None not in found
    handed = [node.outputs[0] for node in single.graph.nodes if node.op == HANDED]
    assert len(handed) == len({*handed}) == len(found) * (1 + bool(projection and cell == "lstm"))
    x = [torch.randn(5, 7, 9) if options["batch_first"] else torch.randn(7, 5, 9)]
    torch.testing.assert_close(single.run(x), program.run(x), rtol=1e-5, atol=1e-6)
    assert single.parameters == program.parameters and single.graph.outputs == program.graph.outputs
    assert apart(single) is not program and len(calls(apart(single))) == len(found)


def test_what_nobody_reads_has_no_name() -> None:
    torch.manual_seed(0)
    program = recurring("gru", 2, both=True)
    single = apart(Program(program.graph.replace(outputs=("last0",)).live(), program.tensors))
    *others, last = (node for node in single.graph.nodes if node.op in RECURRENT)
    assert all(node.outputs[0] for node in others[:2]) and not last.outputs[0] and last.outputs[1]
    x = [torch.randn(5, 7, 9)]
    torch.testing.assert_close(single.run(x)[0], program.run(x)[1], rtol=1e-5, atol=1e-6)


def test_a_program_without_recurrent_calls_of_stored_weights_is_the_very_one() -> None:
    program = recurring("gru")
    computed = Node("computed", "aten.neg.default", (Ref("0.0"),), (), ("computed",))
    *others, call = (renamed(node, {"0.0": "computed"}) for node in program.graph.nodes)
    program = Program(program.graph.replace(nodes=(*others, computed, call)), program.tensors)
    assert apart(program) is program


def test_it_is_a_step_of_the_simplification_taken_where_outputs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    program = recurring("lstm", 2, both=True)
    smaller, plain, _ = simplify(program)
    assert smaller is plain and len(calls(plain)) == 4
    other = program.with_tensors({**program.tensors, "0.2": program.tensors["0.2"] + 1})
    monkeypatch.setattr("rightrank.models.simplify.simplify.apart", lambda _: other)
    assert simplify(program).program is program
