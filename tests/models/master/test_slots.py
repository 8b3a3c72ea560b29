from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rightrank.models.master.master import Master
from rightrank.models.master.slots import Slot, Slots
from rightrank.models.master.template import Tuned
from tests.models.nets import SHAPES, Small, planner


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Master:
    calibration = torch.randn(40, *SHAPES[Small])
    return Master.open(planner(Small, tmp_path_factory.mktemp("slots"), "logit", calibration)[1])


def ranks_of(master: Master, **wanted: int) -> list[int]:
    return [wanted.get(layer.name, 0) for layer in master.template.decomposed]


def by_place(found: list[Slot]) -> dict[tuple[str, str], Slot]:
    return {(slot.tensor, slot.side): slot for slot in found}


def test_a_layer_of_rank_0_is_whole_and_any_other_is_the_leading_part_of_its_factors(master: Master) -> None:
    found = by_place(list(Slots(master.template).at(ranks_of(master, wide=3))))
    assert found["stem.weight", ""].source == "dense/stem.weight"
    down, up = found["wide.weight", "down"], found["wide.weight", "up"]
    assert (down.source, down.shape) == ("down/wide", (3, 16, 1, 5))
    assert (up.source, up.shape) == ("up/wide", (24, 3, 1, 1))
    assert ("wide.weight", "") not in found and down.parameter
    stored = master.tensors()["up/wide"]
    assert torch.equal(up.taken(stored), stored[:, :3])


def test_what_a_cut_moves_has_a_row_for_each_rank(master: Master) -> None:
    slots, stored = Slots(master.template), master.tensors()["corrected/norm.running_mean"]
    for rank in (1, 3):
        slot = by_place(list(slots.at(ranks_of(master, stem=rank))))["norm.running_mean", ""]
        assert (slot.source, slot.row, slot.parameter) == ("corrected/norm.running_mean", rank - 1, False)
        assert torch.equal(slot.taken(stored), stored[rank - 1])
    whole = by_place(list(slots.at(ranks_of(master))))["norm.running_mean", ""]
    assert (whole.source, whole.row) == ("dense/norm.running_mean", None)


def test_a_tuned_plan_takes_its_knot_what_was_learnt_and_what_was_left_alone(master: Master) -> None:
    tuned = Tuned(10**9, (100, 10**8), frozenset({"head.bias"}), frozenset({"norm.running_var"}))
    found = by_place(list(Slots(replace(master.template, tuned=tuned)).at(ranks_of(master, wide=3))))
    assert found["wide.weight", "up"].source == "tuned/up/wide"
    assert found["head.bias", ""].source == "tuned/head.bias"
    assert (found["norm.running_var", ""].source, found["norm.running_var", ""].row) == ("knots/norm.running_var", 0)
    assert found["wide.bias", ""].source == "dense/wide.bias"


def test_a_tensor_that_no_call_reads_has_no_slot(master: Master) -> None:
    graph = master.template.graph
    slots = Slots(replace(master.template, graph=graph.replace(tensors={**graph.tensors, "unread": "head.weight2"})))
    assert "head.weight2" not in slots.tensors
    read = {graph.tensors[name] for node in graph.nodes for name in node.inputs() if name in graph.tensors}
    assert {*slots.tensors} == read


def test_what_is_taken_of_a_file_is_what_is_taken_of_tensors_and_no_copy_where_it_lies_together(
    master: Master,
) -> None:
    stored = master.tensors()
    for slot in Slots(master.template).at([1 for _ in master.template.decomposed]):
        array = slot.taken(master.file.array(slot.source, torch.empty(0, dtype=getattr(torch, slot.dtype)).itemsize))
        tensor = slot.taken(stored[slot.source])
        assert array.shape == tuple(tensor.shape) == slot.shape
        assert np.ascontiguousarray(array).tobytes() == tensor.contiguous().numpy().tobytes()
        assert not array.flags.owndata
