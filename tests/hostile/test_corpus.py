from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rightrank.models.checkpoint import Limits, read, read_data, sandbox
from rightrank.models.errors import RightRankError
from rightrank.models.program.graph import Graph, Input
from tests import reading
from tests.hostile import corpus

TAKES_IMAGES = Graph((Input("x", "float32", (None, 3, 8, 8)),), {}, frozenset(), (), ("x",))
SMALL = Limits(memory=1 << 30, seconds=60)
# One of each way to be refused, and those that only the child's limits could stop.
THROUGH_THE_SANDBOX = (
    "pickled weight",
    "expression call",
    "call that fills memory",
    "state with code",
)


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nest") / "canary"


@pytest.fixture(scope="module")
def checkpoints(canary: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, corpus.Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = list(corpus.checkpoints(tmp_path_factory.mktemp("checkpoints"), canary))
    assert len({case.name for case in cases}) == len(cases)
    return {case.name: case for case in cases}


def refusal(case: corpus.Case) -> RightRankError | None:
    try:
        read(case.path, corpus.ARCHITECTURE, SMALL)
    except RightRankError as error:
        return error
    return None


def test_every_hostile_checkpoint_is_refused_with_its_own_kind_of_error_and_a_plain_sentence(
    checkpoints: dict[str, corpus.Case], canary: Path
) -> None:
    wrong = {}
    for case in checkpoints.values():
        error = refusal(case)
        plain = error is not None and error.detail.endswith(".") and "Traceback" not in str(error)
        if type(error) is not case.error or not plain or str(case.path) in str(error) or canary.exists():
            wrong[case.name] = (case.error.__name__, repr(error), canary.exists())
    assert wrong == {}


@pytest.mark.parametrize("name", THROUGH_THE_SANDBOX)
def test_the_sandbox_reports_the_same_refusal(
    name: str, checkpoints: dict[str, corpus.Case], canary: Path, tmp_path: Path
) -> None:
    case = checkpoints[name]
    with pytest.raises(case.error):
        sandbox.prepare(case.path, tmp_path, architecture=corpus.ARCHITECTURE, limits=SMALL, readers=reading.shared())
    assert not canary.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_that_torch_puts_beside_a_program_is_never_opened(canary: Path, tmp_path: Path) -> None:
    for path in corpus.opened_never(tmp_path, canary):
        assert read(path).graph.nodes
        assert not canary.exists()


def test_the_payloads_do_work_where_they_are_opened(canary: Path, tmp_path: Path) -> None:
    """Otherwise none of the above would say anything."""
    mine = tmp_path / "canary"
    buffer = io.BytesIO()
    torch.save(corpus.Touch(mine), buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=False)
    assert mine.exists()


def test_honest_files_of_every_kind_are_read(tmp_path: Path) -> None:
    exported, state = tmp_path / "a", tmp_path / "b"
    exported.write_bytes(corpus.honest())
    torch.save(corpus.honest_state(), state)
    assert len(read(exported).graph.nodes) == 5
    assert [node.op for node in read(state, corpus.ARCHITECTURE).graph.nodes][-1] == "aten.linear.default"


@pytest.fixture(scope="module")
def data(canary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[corpus.Case]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield list(corpus.data(tmp_path_factory.mktemp("data"), canary))


def test_every_hostile_data_file_is_refused(data: list[corpus.Case], canary: Path) -> None:
    for case in data:
        with pytest.raises(case.error) as caught:
            read_data(case.path, TAKES_IMAGES, SMALL)
        assert "Traceback" not in str(caught.value), case.name
    assert not canary.exists()
