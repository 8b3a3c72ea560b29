from __future__ import annotations

import torch

from rightrank.models.measure.tally import Tally


def test_rows_stay_with_their_samples() -> None:
    first = Tally(2, torch.tensor([0, 0, 1]), (torch.tensor([1.0, 2, 3]),))
    joined = Tally.join([first, Tally(1, torch.tensor([0, 0]), (torch.tensor([4.0, 5]),))])
    assert joined.n == 3 and joined.by_sample(joined.kept[0]).tolist() == [3, 3, 9]
    taken = joined.take(torch.tensor([2, 0, 0]))
    assert taken.sample.tolist() == [0, 0, 1, 1, 2, 2] and taken.kept[0].tolist() == [4, 5, 1, 2, 1, 2]


def test_a_sample_may_have_no_row() -> None:
    lacking = Tally(3, torch.tensor([2, 0]), (torch.tensor([1.0, 2]),))
    assert lacking.by_sample(lacking.kept[0]).tolist() == [2, 0, 1]
    assert lacking.take(torch.tensor([1, 2])).by_sample(torch.tensor([7.0])).tolist() == [0, 7]
