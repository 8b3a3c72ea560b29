from __future__ import annotations

import pytest

from rightrank.service.registry import reach
from rightrank.service.registry.reach import Reach


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(reach.time, "monotonic", lambda: now[0])
    return now


def test_after_a_failure_nobody_asks_for_a_moment_and_then_one_does(clock: list[float]) -> None:
    part = Reach()
    assert part.may_ask() and part.may_ask()
    part.failed()
    assert not part.may_ask()
    clock[0] += reach.PAUSE_SECONDS
    assert [part.may_ask() for _ in range(3)] == [True, False, False]
    part.failed()
    assert not part.may_ask()


def test_an_answer_lets_everybody_in_again(clock: list[float]) -> None:
    part = Reach()
    part.failed()
    clock[0] += reach.PAUSE_SECONDS
    assert part.may_ask()
    part.answered()
    assert all(part.may_ask() for _ in range(3))


def test_one_that_tries_and_never_comes_back_is_followed_by_another(clock: list[float]) -> None:
    part = Reach()
    part.failed()
    for _ in range(3):
        clock[0] += reach.PAUSE_SECONDS
        assert [part.may_ask(), part.may_ask()] == [True, False]


def test_a_job_asks_in_any_case(clock: list[float]) -> None:
    part = Reach(patient=True)
    part.failed()
    assert part.may_ask()
