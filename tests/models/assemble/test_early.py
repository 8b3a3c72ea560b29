from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from rightrank.models.assemble import early
from rightrank.models.errors import DataError
from rightrank.models.program.graph import Graph, Input, Node, Ref
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Data, Samples
from tests.models.nets import LENGTHS, WORDS, Encoder, encoded, encoder

CLASSES = 3


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return encoder(tmp_path_factory.mktemp("encoder"))[1]


def words(**changes: Tensor) -> Data:
    """Sixty samples of one length."""
    ids = torch.randint(0, WORDS, (60, 5), generator=torch.Generator().manual_seed(0))
    given = {"input_ids": ids, "attention_mask": torch.ones(60, 5, dtype=torch.int64), **changes}
    return Data(Samples.of(given["input_ids"], given["attention_mask"]), (torch.arange(60) % CLASSES,))


def changed(number: int, value: int) -> Data:
    (ids, _) = words().samples.groups[0]
    ids = ids.clone()
    ids[number, 3] = value
    return words(input_ids=ids)


def test_data_that_fit_say_what_they_are_measured_by(program: Program) -> None:
    assert early.check(program, words(), words()) == "top1"
    assert early.check(program, words(), None, "f1") == "f1"
    assert early.check(program, Data(words().samples), None) == "agreement"
    assert early.check(program, None, words()) is None


@pytest.mark.parametrize("value", [WORDS, -1])
@pytest.mark.parametrize("what", ["evaluation", "calibration"])
def test_a_word_that_there_is_not_is_found_wherever_it_is(value: int, what: str, program: Program) -> None:
    bad = changed(47, value)
    evaluation, calibration = (bad, words()) if what == "evaluation" else (words(), bad)
    with pytest.raises(DataError, match=f"{what} input 47, counted from 0: .*index") as refused:
        early.check(program, evaluation, calibration)
    assert re.search(rf"input_ids is \(1, 5\) from (-1 to \d+|\d+ to {WORDS}),", str(refused.value))


def test_lengths_that_do_not_go_together_are_told_in_torchs_words(program: Program) -> None:
    with pytest.raises(DataError, match=r"evaluation input 0.*size.*attention_mask is \(1, 4\)"):
        early.check(program, words(attention_mask=torch.ones(60, 4, dtype=torch.int64)), None)


@pytest.mark.parametrize(
    ("labels", "fits"),
    [
        (["a", "b", "c"], True),
        (["a", "b"], False),
        ({"0": ["a", "b", "c", "d"]}, False),
        ({"1": ["a", "b", "c"]}, False),
    ],
)
def test_a_card_has_a_label_for_each_class(labels: object, fits: bool, program: Program) -> None:
    card = {"labels": labels}
    if fits:
        early.check_card(program, card)
        early.check_card(program, card, "top1")
    else:
        with pytest.raises(DataError, match=r"3 numbers for each answer|outputs are 0 to 0"):
            early.check_card(program, card)


def outputs(*shapes: tuple[int, ...]) -> Program:
    """A program with outputs of these shapes, the batch first, which are slices of its input."""
    nodes = []
    for number, shape in enumerate(shapes):
        nodes.append(Node(f"v{number}", "aten.expand.default", (Ref("w"), [2, *shape]), (), (f"v{number}",)))
    graph = Graph(
        (Input("x", "float32", (2, 1)),), {"w": "w"}, frozenset({"w"}), tuple(nodes), tuple(n.name for n in nodes)
    )
    return Program(graph, {"w": torch.ones(1)})


def test_one_number_tells_two_classes_apart_and_of_boxes_there_are_more() -> None:
    program = outputs((1,), (84, 100), (), (21, 8, 8))
    for labels in ({"0": ["no", "yes"]}, {"0": ["price"]}, {"1": ["x"] * 80}, {"2": ["no", "yes"]}, {"3": ["x"] * 21}):
        early.check_card(program, {"labels": labels})
    for labels in ({"0": ["a", "b", "c"]}, {"1": ["x"] * 101}, {"2": ["a", "b", "c"]}, {"3": ["x"] * 22}):
        with pytest.raises(DataError, match="labels of output"):
            early.check_card(program, {"labels": labels})
    masks = outputs((21, 8, 8))
    early.check_card(masks, {"labels": ["x"] * 20})
    with pytest.raises(DataError, match="which has 21 numbers"):
        early.check_card(masks, {"labels": ["x"] * 20}, "miou")


def test_a_group_that_does_not_fit_is_named(program: Program) -> None:
    good, bad = encoded(8), words(attention_mask=torch.ones(60, 4, dtype=torch.int64))
    samples = Samples.together([good.samples, bad.samples])
    with pytest.raises(DataError, match=re.escape(f"of group {len(LENGTHS)}")):
        early.check(program, None, Data(samples))


@pytest.mark.parametrize("start", [1, -1])
def test_labels_are_held_against_the_outputs_before_any_work(start: int, program: Program) -> None:
    data = words()
    targets = torch.arange(60) % CLASSES + start
    with pytest.raises(DataError, match=f"from {start} to {CLASSES - 1 + start}"):
        early.check(program, Data(data.samples, (targets,)), None)


def test_every_groups_labels_are(program: Program) -> None:
    data = encoded(8)
    assert data.targets is not None
    with pytest.raises(DataError, match=f"to {CLASSES}"):
        early.check(program, Data(data.samples, (*data.targets[:-1], data.targets[-1] * 0 + CLASSES)), None)


def test_too_few_samples_for_a_measure_are_found_too(program: Program) -> None:
    with pytest.raises(DataError, match="wants 12 samples or more, and there are 9"):
        early.check(program, Data(words().samples[:9]), None, "overlap")


def test_the_module_is_what_the_program_was_made_of(program: Program) -> None:
    assert program.graph.free and program.graph.batched == (True, True)
    torch.manual_seed(0)
    module = Encoder().eval()
    for group in encoded(8).samples.groups:
        with torch.no_grad():
            assert torch.equal(program.run(group)[0], module(*group))
