from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rightrank.models.errors import DataError
from rightrank.models.measure.measures import MEASURES, check
from rightrank.models.measure.metrics import METRICS

SIX = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
CLASS = torch.arange(20) % 6
MANY = torch.rand(20, 6, generator=torch.Generator().manual_seed(1))
ONE_HOT = torch.eye(6)[CLASS]
MAP, PIXELS = torch.randn(8, 3, 4, 5), torch.arange(20 * 20).reshape(20, 4, 5) % 3


def test_every_metric_has_a_measure_by_its_name() -> None:
    assert set(MEASURES) == set(METRICS) and all(measure.name == name for name, measure in MEASURES.items())


@pytest.mark.parametrize(
    ("outputs", "targets", "expected"),
    [
        (SIX, CLASS, "top1"),
        (SIX, CLASS[:, None], "top1"),
        (SIX, CLASS.where(CLASS != 3, -100), "top1"),
        (SIX, (MANY > 0.5).long(), "accuracy"),
        (SIX, (MANY > 0.5).float(), "accuracy"),
        (SIX, MANY, "mse"),
        (SIX, torch.zeros(20, 6), "mse"),
        (SIX, None, "agreement"),
        (SIX[:, :1], CLASS % 2, "accuracy"),
        (SIX[:, :1], (CLASS % 2).float(), "accuracy"),
        (SIX[:, :1], (CLASS % 2).float()[:, None], "accuracy"),
        (SIX[:, :1], MANY[:, 0], "mse"),
        (SIX[:, 0], MANY[:, :1], "mse"),
        (MAP, PIXELS, "top1"),
        (MAP, PIXELS[:, None], "top1"),
        (MAP, torch.randn(20, 3, 4, 5), "mse"),
        (torch.randn(8, 7, 6), torch.arange(140).reshape(20, 7) % 6, "top1"),
    ],
)
def test_what_data_look_like_decides(outputs: Tensor, targets: Tensor | None, expected: str) -> None:
    assert check(None, outputs, targets) == expected


@pytest.mark.parametrize(
    ("metric", "outputs", "targets", "words", "hint"),
    [
        (None, SIX, ONE_HOT, "one-hot", "argmax"),
        (None, SIX, ONE_HOT.long(), "one-hot", "argmax"),
        (None, SIX, CLASS.float(), "stored as floats", "long"),
        (None, SIX, CLASS + 1, "from 1 to 6, the model has 6 classes", "count from 1"),
        (None, SIX, CLASS - 1, "from -1 to 4", "-100"),
        (None, SIX, torch.full((20,), -100), "All targets", "indices"),
        (None, MAP, PIXELS.movedim(1, 2), "a class index for each place", "order of axes"),
        (None, MAP, torch.eye(3)[PIXELS].movedim(-1, 1), "one-hot", "argmax"),
        (None, SIX[:, :1], CLASS, "integers of the shape", "floats"),
        ("top1", SIX[:, :1], CLASS % 2, "Classes cannot be told", "accuracy"),
        ("top1", SIX, MANY, "floats", "integers"),
        ("top5", SIX, None, "needs targets", "targets"),
        ("accuracy", SIX, CLASS, "a 0 or 1 for each", "shape"),
        ("auc", SIX, MANY, "are 0 or 1, and these are not", "0 for no"),
        ("auc", SIX[:, :1], torch.ones(20, 1), "0 and such that are 1", "both"),
        ("mae", SIX, MANY[:, :2], "of the outputs' shape", "numbers"),
        ("r2", SIX, torch.ones(20, 6), "all the same", "mse"),
        ("cosine", SIX[:, 0], None, "vectors", "agreement"),
        ("bleu", SIX, CLASS, "no metric", "top1"),
    ],
)
def test_what_does_not_fit_is_said_and_what_to_do(
    metric: str | None, outputs: Tensor, targets: Tensor | None, words: str, hint: str
) -> None:
    with pytest.raises(DataError) as refused:
        check(metric, outputs, targets)
    assert words in refused.value.detail and hint in refused.value.hint


def test_a_publishers_choice_that_fits_is_taken() -> None:
    assert check("mse", SIX, ONE_HOT) == "mse"
    assert check("accuracy", SIX, ONE_HOT) == "accuracy"
    assert check("overlap", SIX, CLASS) == "overlap"
