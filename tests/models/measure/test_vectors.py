from __future__ import annotations

import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from rightrank.models.errors import DataError
from rightrank.models.measure.measures import MEASURES
from rightrank.models.measure.vectors import nearest, unit

COSINE, OVERLAP = MEASURES["cosine"], MEASURES["overlap"]


def drawn(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    original = torch.randn(n, 8, generator=g)
    return original + 0.4 * torch.randn(n, 8, generator=g), original


def test_the_cosine_is_scikit_learns() -> None:
    mine, theirs = drawn(60)
    expected = cosine_similarity(mine.double(), theirs.double()).diagonal().mean()
    assert COSINE.value(COSINE.tally(mine, theirs, 1)) == pytest.approx(expected, rel=1e-13)


def test_retrieval_is_what_scikit_learns_neighbours_have_in_common() -> None:
    mine, theirs = drawn(300)
    lists = []
    for each in (mine, theirs):
        found = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(each.double())
        lists.append(found.kneighbors(return_distance=False))
    expected = sum(len(set(a) & set(b)) for a, b in zip(*lists, strict=True)) / 3000
    assert OVERLAP.value(OVERLAP.tally(mine, theirs, 1)) == expected


def test_influence_is_what_leaving_each_sample_out_changes() -> None:
    """By leaving each out, one after the other."""
    n = 40
    found = OVERLAP.tally(*drawn(n), 1)
    left = [OVERLAP.value(found.take(torch.tensor([row for row in range(n) if row != out]))) for out in range(n)]
    changes = torch.tensor(left, dtype=torch.float64)
    expected = (changes.mean() - changes) * (n - 1) / n / 2**0.5
    torch.testing.assert_close(OVERLAP.influence(found), expected)


def test_no_vector_is_its_own_neighbour() -> None:
    lists = nearest(unit(torch.randn(300, 4)), 10)
    assert not (lists == torch.arange(300)[:, None]).any()


def test_what_is_the_same_overlaps_wholly_and_too_few_are_refused() -> None:
    mine, _ = drawn(20)
    assert OVERLAP.value(OVERLAP.tally(mine, mine, 1)) == 1
    with pytest.raises(DataError, match="there are 11"):
        OVERLAP.value(OVERLAP.tally(mine[:11], mine[:11], 1))


def test_a_vector_that_is_not_finite_is_like_nothing() -> None:
    mine, theirs = drawn(2)
    mine[0, 0] = torch.nan
    found = COSINE.tally(mine, theirs, 1)
    assert float(found.kept[0][0]) == 0
