from __future__ import annotations

import pytest

from rightrank.models.measure.metrics import METRICS
from rightrank.service.api.goal import exactly, reported
from rightrank.service.problems import Problem
from rightrank.service.registry.reports import ByFile, Report


def files(*ways: bool | None) -> ByFile:
    found = [Report("wer", 0.1 * (number + 1), None, None, None, way, 0.0, "") for number, way in enumerate(ways)]
    return {str(number): {"wer": report} for number, report in enumerate(found)}


@pytest.mark.parametrize(
    ("parameter", "ways", "told"),
    [
        ("min_accuracy", [False, False], "A wer is better the lower it is.*Ask for `max_error=0.2` of it"),
        ("max_error", [True, None], "A wer is better the higher it is.*Ask for `min_accuracy=0.2` of it"),
        ("max_error", [None, None], "Whether a higher wer is better was not said"),
        ("max_error", [True, False], "was said both ways"),
        ("min_accuracy", [True, False], "was said both ways"),
    ],
)
def test_a_number_is_never_asked_for_the_wrong_way(parameter: str, ways: list[bool | None], told: str) -> None:
    with pytest.raises(Problem) as refused:
        reported(parameter, 0.2, "wer", files(*ways))
    assert refused.value.kind == "invalid-request"
    import re

    assert re.search(told, f"{refused.value.detail} {refused.value.hint}")


@pytest.mark.parametrize(("number", "said"), [(0.9, "0.9"), (1.0, "1"), (0.9342915811088296, "0.9342915811088296")])
def test_a_number_is_said_so_that_it_can_be_asked_for(number: float, said: str) -> None:
    assert exactly(number) == said and float(said) == number
    assert exactly(number) in reported("min_accuracy", number, "wer", files(True)).words


@pytest.mark.parametrize("metric", METRICS)
def test_what_the_service_measures_is_no_reported_metric(metric: str) -> None:
    with pytest.raises(Problem, match="what the service measures"):
        reported("min_accuracy", 0.2, metric, files(True))


def test_what_nobody_reported_says_what_was() -> None:
    goal = reported("max_error", 0.2, "cer", files(False))
    assert goal.unknown.detail == "Nobody has reported a cer of this model." and goal.unknown.hint == "Reported: wer."
    assert "PUT" in reported("min_accuracy", 0.2, "cer", {}).unknown.hint
