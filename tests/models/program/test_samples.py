from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rightrank.models.program.samples import Samples


def grouped(*sizes: int, fixed: int | None = None) -> Samples:
    """Samples that are all different numbers, in groups of so many."""
    numbers = torch.arange(sum(sizes)).split(list(sizes))
    groups = tuple((each.reshape(-1, 1).expand(-1, width + 1), torch.ones(2)) for width, each in enumerate(numbers))
    return Samples(groups, (True, False), fixed)


def numbers(samples: Samples) -> list[int]:
    return [int(x) for ids, _ in samples.groups for x in ids[:, 0]]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 60), st.integers(0, 60))
@example([2, 2, 2, 2, 7], 2, 2)
def test_a_slice_has_its_share_of_each_group_and_is_disjoint_from_the_others(
    sizes: list[int], first: int, last: int
) -> None:
    samples = grouped(*sizes)
    first, last = sorted((first, last))
    parts = [samples[:first], samples[first:last], samples[last:]]
    assert sorted(number for part in parts for number in numbers(part)) == list(range(len(samples)))
    assert len(parts[1]) == len(range(*slice(first, last).indices(len(samples))))
    for ids, _ in parts[0].groups:
        size = sizes[ids.shape[1] - 1]
        share = size * len(parts[0]) / len(samples)
        # Each group is rounded by a half at most, and so is the sum of all, of which this is a share.
        assert abs(len(ids) - share) <= (1 + len(sizes) * size / len(samples)) / 2 + 1e-9


def test_of_one_group_a_slice_is_a_lists() -> None:
    assert numbers(grouped(10)[2:5]) == [2, 3, 4] and len(grouped(3)[5:]) == 0


def test_batches_are_whole_but_for_groups_that_are_less_than_one() -> None:
    assert [len(ids) for ids, _ in grouped(10).batches(4)] == [4, 4]
    assert list(grouped(3).batches(4)) == []
    assert [len(ids) for ids, _ in grouped(10, 3, 1).batches(4)] == [4, 4, 3, 1]
    assert [len(ids) for ids, _ in grouped(5, 3, fixed=2).batches(4)] == [2, 2, 2]
    assert [len(ids) for ids, _ in grouped(5, 3).parts(4)] == [4, 1, 3]


def test_what_is_drawn_is_of_one_group_and_each_comes_as_often_as_it_is_large() -> None:
    samples, generator = grouped(30, 10), torch.Generator().manual_seed(0)
    drawn = [samples.draw(4, generator)[0] for _ in range(400)]
    assert all(each.shape in ((4, 1), (4, 2)) for each in drawn)
    assert sum(each.shape[1] == 1 for each in drawn) / 400 == pytest.approx(0.75, abs=0.08)
