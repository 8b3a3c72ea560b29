from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from rightrank.models.errors import DataError
from rightrank.models.measure.interval import deviation
from rightrank.models.measure.measures import MEASURES
from rightrank.models.measure.vectors import AROUND, NEAREST, nearest, unit

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


def test_the_variance_is_that_of_all_pairs_of_pairs() -> None:
    """By its definition: the square of the sum of what all pairs do, less that of its mean, which those pairs of pairs
    tell that share no sample."""
    n = 60
    found = OVERLAP.tally(*drawn(n), 1)
    lists = [nearest(each, NEAREST + AROUND) for each in found.kept]
    a, b = ([set(row[:NEAREST].tolist()) for row in each] for each in lists)
    place = [len({*x[:15].tolist()} & {*y[:15].tolist()}) - len({*x[:5].tolist()} & {*y[:5].tolist()})
             for x, y in zip(*lists, strict=True)]  # fmt: skip
    q = sum(place) / n / 20
    table = np.zeros((n, n))
    for j, i in itertools.permutations(range(n), 2):
        amount = (i in a[j] and i in b[j]) - q * ((i in a[j]) + (i in b[j]))
        table[j, i] += amount
        table[i, j] += amount
    two = np.array([*itertools.combinations(range(n), 2)])
    amounts = table[two[:, 0], two[:, 1]]
    products = np.outer(amounts, amounts)
    of = (two[:, :, None] == np.arange(n)).any(1).astype(float)
    # The mean over pairs of pairs that share nothing is the square of what a pair does in the world.
    variance = products.sum() - len(two) ** 2 * products[of @ of.T == 0].mean()
    expected = variance - 2 * amounts.sum() ** 2 / ((n - 2) * (n - 3))
    influence = OVERLAP.influence(found)
    assert deviation(influence) == pytest.approx(math.sqrt(expected) / (10 * n), rel=1e-10)
    moved = torch.tensor(table.sum(1) - table.sum(1).mean())
    torch.testing.assert_close(influence / influence.norm(), moved / moved.norm())


def test_intervals_are_as_wide_as_values_of_other_samples_lie_apart() -> None:
    """Of 200 sets of a simulated world, at a size where leaving each sample out would give 1.6 times the width."""
    g = torch.Generator().manual_seed(5)
    original = torch.randn(12_000, 8, generator=g)
    everyone = OVERLAP.tally(original + 0.4 * torch.randn(12_000, 8, generator=g), original, 1)
    sets = [everyone.take(part) for part in torch.randperm(12_000, generator=g).split(60)]
    spread = torch.tensor([OVERLAP.value(each) for each in sets]).std()
    said = torch.tensor([deviation(OVERLAP.influence(each)) for each in sets[:60]]).square().mean().sqrt()
    assert 0.85 < said / spread < 1.15


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
