"""A card is checked in words, and every file has it, as large as planned."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import rightrank
from rightrank.models import card
from rightrank.models.emit import formats
from rightrank.models.emit.format import Output
from rightrank.models.errors import DataError
from rightrank.models.master.template import Template
from rightrank.models.plan.planner import Plan, Planner
from tests.models.nets import SHAPES, Small, build, export, make, source

GIVEN = {
    "license": "Apache-2.0",
    "description": "Ziffern, handgeschrieben: ünïcode ✓\nzweite Zeile",
    "labels": [str(each) for each in range(10)],
    "preprocessing": {"size": [12, 12], "mean": [0.5, 0.25], "std": [1, 2], "layout": "NCHW"},
}
TEXT = card.written(card.checked(GIVEN))
OUTPUTS = [
    Output(),
    *(Output(writer=2, encoding=encoding) for encoding in ("plain", "half", "int8-nested", "levels")),
    *(Output("pt2", 1, encoding) for encoding in ("plain", "int8")),
    *(Output("onnx", 1, encoding) for encoding in ("plain", "half")),
]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["MIT"], "no JSON object"),
        ({"licence": "MIT"}, r"member 'licence'\. Known are description, license, labels, preprocessing"),
        ({"license": 3}, "license is no text"),
        ({"description": " "}, "description is no text"),
        ({"labels": "cat"}, "labels are no list"),
        ({"labels": []}, "labels are no list"),
        ({"labels": ["cat", 3]}, "3 is no name"),
        ({"labels": ["cat", "a\nb"]}, "is no name"),
        ({"labels": {"first": ["cat"]}}, "output 'first'. Outputs are counted from 0"),
        ({"labels": {"01": ["cat"]}}, "output '01'"),
        ({"labels": {}}, "Outputs are counted from 0"),
        ({"preprocessing": [224, 224]}, "preprocessing is no JSON object"),
        ({"preprocessing": {"mean": float("nan")}}, "no JSON"),
        ({"preprocessing": {"mean": object()}}, "no JSON"),
        ({"description": "\x1b[2J"}, "control characters"),
        ({"preprocessing": {"\ud800": 1}}, "control characters"),
        ({"preprocessing": json.loads('{"a":' * 20 + "1" + "}" * 20)}, "nested more than"),
        ({"description": "x" * card.LIMIT}, "65,5.. bytes, and 65,536 are the most"),
    ],
)
def test_what_is_no_card_is_refused_in_words(given: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        card.checked(given)


def test_a_card_is_the_same_text_however_it_was_written() -> None:
    assert card.checked({"license": None, "labels": {"0": ["a", "b"]}}) == {"labels": ["a", "b"]}
    assert card.written(card.checked(dict(reversed(GIVEN.items())))) == TEXT
    assert card.written(card.checked({})) == "" and TEXT.isascii() and json.loads(TEXT) == GIVEN
    assert card.checked({"description": "👩‍🚀 می‌خواهم"})  # joiners are no control characters
    assert card.labels_of({"labels": {"0": ["a"], "2": ["b"]}}) == {0: ["a"], 2: ["b"]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same master without a card and with one."""
    folder = tmp_path_factory.mktemp("card")
    made = source(make(Small), SHAPES[Small], folder)
    for name, text in (("plain", ""), ("card", TEXT)):
        build(made, folder / name, mixed=True, card=text)
    return folder / "plain", folder / "card"


def written(folder: Path, plan: Plan) -> bytes:
    file = io.BytesIO()
    formats.write(folder, plan, file)
    return file.getvalue()


def read_back(data: bytes, format: str) -> str:
    """The card as the format's own reader gives it."""
    if format == "onnx":
        import onnx

        return str({each.key: each.value for each in onnx.load_from_string(data).metadata_props}[card.FILE])
    found: dict[str, Any] = {card.FILE: ""}
    if format == "pt2":
        torch.export.load(io.BytesIO(data), extra_files=found)
    else:
        torch.jit.load(io.BytesIO(data), _extra_files=found)
    text = found[card.FILE]
    return text.decode() if isinstance(text, bytes) else str(text)


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda each: f"{each.format}-{each.writer}-{each.encoding}")
def test_every_file_has_the_card_and_the_bytes_that_were_planned(output: Output, folders: tuple[Path, Path]) -> None:
    if why := formats.format_of(output).available():
        pytest.skip(why)
    without, having = (Planner.open(folder, output) for folder in folders)
    for count in {0, len(having) // 2, len(having) - 1}:
        plan, plain = having._at(count), without._at(count)
        data, other = written(folders[1], plan), written(folders[0], plain)
        assert len(data) == plan.bytes and len(other) == plain.bytes
        assert read_back(data, output.format) == TEXT
        assert 0 < plan.bytes - plain.bytes < len(TEXT) + 250
        assert TEXT.encode() not in other and card.FILE.encode() not in other
    path = folders[1].parent / f"file{formats.format_of(output).suffix}"
    path.write_bytes(written(folders[1], having.largest))
    assert formats.format_of(output).load(path)(torch.randn(2, *SHAPES[Small])).shape == (2, 10)  # type: ignore[union-attr]


@pytest.mark.parametrize("output", OUTPUTS[:5], ids=lambda each: f"{each.writer}-{each.encoding}")
def test_a_budget_means_the_same_with_a_card_and_max_bytes_includes_it(
    output: Output, folders: tuple[Path, Path]
) -> None:
    without, having = (Planner.open(folder, output) for folder in folders)
    least = without.least()
    assert having.least() == least
    for budget in (1.0, 0.6, least):
        plan, plain = having.plan(budget), without.plan(budget)
        assert plan.ranks == plain.ranks and plan.bytes > plain.bytes
    limit = having.plan(0.6).bytes
    assert having.plan(max_bytes=limit).bytes == limit
    assert having.plan(max_bytes=limit - 1).bytes < limit
    assert len({having.written_as(each).plan(0.6).ranks for each in (output, output)} | {having.plan(0.6).ranks}) == 1


def test_a_large_card_starves_no_small_budget(folders: tuple[Path, Path]) -> None:
    template = Template.open(folders[0])
    text = card.written(card.checked({"description": "x" * 60_000}))
    whole = template.uploaded and replace(template.uploaded, card=text)
    without = Planner.open(folders[0], Output(writer=2))
    large = Planner(
        replace(template, card=text, uploaded=whole), without._growth, without._importance, output=Output(writer=2)
    )
    assert large.least() == without.least() and large.plan(1).original
    assert large.plan(large.least()).bytes - without.smallest.bytes > 60_000


def test_the_same_bytes_in_another_process(folders: tuple[Path, Path]) -> None:
    script = (
        "import hashlib, sys; from pathlib import Path; from rightrank.models.emit import formats;"
        "from rightrank.models.emit.format import Output; from rightrank.models.master.master import Master;"
        "from rightrank.models.plan.planner import Planner; folder = Path(sys.argv[1]);"
        "plan = Planner.open(folder, Output(writer=2)).plan(0.6); assert 'torch' not in sys.modules;"
        "print(hashlib.sha256(b''.join(formats.pieces(Master.open(folder), plan))).hexdigest())"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(folders[1])],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    here = written(folders[1], Planner.open(folders[1], Output(writer=2)).plan(0.6))
    assert found.strip() == hashlib.sha256(here).hexdigest()


def test_a_notebook_builds_with_a_card_and_labels_that_do_not_fit_are_refused_first(tmp_path: Path) -> None:
    program = rightrank.read(export(make(Small), SHAPES[Small], tmp_path / "model.pt2"))
    with pytest.raises(DataError, match=r"3 labels of output 0, which has 10 numbers"):
        rightrank.build(program, tmp_path / "master", card={"labels": ["a", "b", "c"]})
    assert not (tmp_path / "master").exists()
    master = rightrank.build(program, tmp_path / "master", card=GIVEN)
    file = rightrank.write(master, rightrank.plan(master, 0.5), tmp_path / "small.pt")
    assert read_back(file.read_bytes(), "torchscript") == TEXT
