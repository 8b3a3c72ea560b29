from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rightrank.models.emit import formats
from rightrank.models.emit.format import FIRST, Output
from rightrank.models.errors import UnreadableMaster
from rightrank.models.master.master import Master
from rightrank.models.plan.planner import Planner
from tests.models.nets import Halved, Small, planner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planner(Small, tmp_path_factory.mktemp("formats"))[1]


@pytest.mark.parametrize(
    ("output", "named"),
    [(Output(writer=99), "'torchscript', writer 99"), (Output("ncnn"), "'ncnn', writer 1")],
)
def test_a_writer_that_is_not_here_is_refused_in_words_before_anything_is_written(
    folder: Path, output: Output, named: str
) -> None:
    plan, file = replace(Planner.open(folder).smallest, output=output), io.BytesIO()
    for use in (
        lambda: formats.format_of(output),
        lambda: Planner.open(folder, output),
        lambda: formats.write(folder, plan, file),
    ):
        with pytest.raises(UnreadableMaster, match=f"{named}, which is not here. Run the version that published it"):
            use()
    assert not file.getvalue()


def test_the_newest_writers_are_the_last_of_each_format_and_all_are_found_by_name() -> None:
    assert formats.newest().keys() == formats.FORMATS.keys()
    for name, versions in formats.FORMATS.items():
        assert formats.newest()[name] == max(each.version for each in versions)
        assert [formats.format_of(Output(name, each.version)) for each in versions] == [*versions]
        assert {each.name for each in versions} == {name}


def test_what_is_not_named_is_the_first_writer_of_all() -> None:
    assert FIRST.to_json() == {"format": "torchscript", "writer": 1, "encoding": "plain"}
    assert formats.format_of(FIRST).suffix == ".pt"


@pytest.mark.parametrize("kind", [Small, Halved])
def test_pieces_are_what_is_written_and_as_much_as_was_said(kind: type[torch.nn.Module], tmp_path: Path) -> None:
    _, folder, found = planner(kind, tmp_path)
    master = Master.open(folder)
    for plan in (found.smallest, found.plan(1.0)):
        file = io.BytesIO()
        formats.write(folder, plan, file)
        assert b"".join(formats.pieces(master, plan)) == file.getvalue()
    assert formats.writer_of(master.template.original).sizes().whole == len(file.getvalue())
