from __future__ import annotations

import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from torch import Tensor

from rightrank.models.measure.measures import MEASURES
from rightrank.models.measure.tally import Tally

REFERENCE = {"mse": mean_squared_error, "mae": mean_absolute_error, "r2": r2_score}


def tally(name: str, outputs: Tensor, targets: Tensor) -> Tally:
    parts = zip(outputs.split(37), targets.split(37), strict=True)
    return Tally.join([MEASURES[name].tally(*pair, min(1, outputs.ndim - 1)) for pair in parts])


@pytest.mark.parametrize("shape", [(1,), (4,)])
@pytest.mark.parametrize("name", REFERENCE)
def test_values_are_scikit_learns(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    targets = torch.randn(300, *shape) * 3 + 10
    outputs = targets + torch.randn(300, *shape)
    expected = REFERENCE[name](targets.double(), outputs.double())
    assert MEASURES[name].value(tally(name, outputs, targets)) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("name", REFERENCE)
def test_a_row_is_held_against_a_column_number_by_number(name: str) -> None:
    """Broadcast, they would be a table of all differences."""
    torch.manual_seed(0)
    targets = torch.randn(50)
    outputs = targets + 0.1 * torch.randn(50)
    plain = MEASURES[name].value(tally(name, outputs, targets))
    assert MEASURES[name].value(tally(name, outputs[:, None], targets)) == plain
    assert MEASURES[name].value(tally(name, outputs, targets[:, None])) == plain


@pytest.mark.parametrize("name", REFERENCE)
def test_influence_is_what_leaving_a_sample_out_changes(name: str) -> None:
    torch.manual_seed(0)
    targets = torch.randn(400, 2)
    found = tally(name, targets + torch.randn(400, 2), targets)
    measure, rest = MEASURES[name], torch.arange(1, 400)
    change = measure.value(found) - measure.value(found.take(rest))
    assert change == pytest.approx(float(measure.influence(found)[0]), rel=0.05)
