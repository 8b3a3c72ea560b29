"""Whether a share of right answers is at least a target in truth, and not only on the samples that it was measured on.

A test of one file has a p-value that holds for any number of samples: the chance, at most, of samples as good as these
were the true share below the target. Where a sample has one answer that is the binomial tail. Where it has several,
pixels or tokens, which are right and wrong together, it has a share of right ones, a number in [0, 1], and the bound is
that of Hoeffding and Bentkus for the mean of such numbers. Of several files, tested in an order that was fixed before
any data were seen, each as long as all before it pass, the chance that any passes whose share is below the target is
that of one test (Learn then Test, arXiv:2110.01052).

Without torch and without numpy, since the service tests by what it has stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

# Beyond so many samples nobody is told how many it takes.
MOST = 10_000_000


@dataclass(frozen=True)
class Counted:
    """A share of right answers: its `value`, over so many `answers` of `n` samples drawn independently, of which one
    can have `most` answers."""

    value: float
    n: int
    answers: int
    most: int

    def p_value(self, target: float) -> float:
        """The chance, at most, of a value like this or higher where the true share is below `target`."""
        if target <= 0:
            return 0.0
        if target > 1:
            return 1.0
        if self.most == 1:
            return at_least(round(self.value * self.answers), self.answers, target)
        # Of each sample: the target, and what its right answers are more or less than the target of its answers, for
        # the most that there can be. It is in [0, 1], and its mean is below the target where the share is. Where each
        # sample has as many answers as it can have, it is the sample's own share.
        mean = target + self.answers / (self.n * self.most) * (self.value - target)
        return of_mean(min(mean, 1.0), self.n, target)

    def of(self, n: int) -> Counted:
        """The same share of more samples like these, rounded down to whole answers."""
        answers = self.answers * n // self.n
        right = math.floor(self.value * answers + 1e-6)
        return replace(self, value=right / answers if answers else 0.0, n=n, answers=answers)

    def needed(self, target: float, confidence: float) -> int | None:
        """With how many samples the same share would pass, where it does not with these; None where it would with no
        number of them, or with more than ten million."""
        if self.value <= target:
            return None
        low = high = self.n
        while self.of(high).p_value(target) > 1 - confidence:
            if high >= MOST:
                return None
            low, high = high, min(2 * high, MOST)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.of(middle).p_value(target) <= 1 - confidence else (middle, high)
        return high


def passing(row: Iterable[Counted], target: float, confidence: float) -> int:
    """How many files of a fixed row pass, from its first: all of them have a share of `target` or more in truth, but
    for a chance of 1 - confidence at most. The row is read no further than to the first that does not pass."""
    count = 0
    for each in row:
        if each.p_value(target) > 1 - confidence:
            break
        count += 1
    return count


def of_mean(mean: float, n: int, target: float) -> float:
    """The chance, at most, that n independent numbers in [0, 1] have this mean or a higher one where that of the world
    is below `target`: the least of Hoeffding's bound and Bentkus's (arXiv:2110.01052, section 3.1), of the losses
    1 - mean."""
    loss, most = 1 - mean, 1 - target
    if loss >= most:
        return 1.0
    hoeffding = math.exp(-n * divergence(loss, most))
    # A whole number of losses is one, whatever the last digit of their mean.
    bentkus = math.e * at_least(n - math.ceil(n * loss - 1e-9), n, target)
    return min(hoeffding, bentkus, 1.0)


def divergence(a: float, b: float) -> float:
    """Of a yes at chance a from one at chance b (Kullback and Leibler), in nats."""
    yes = a * math.log(a / b) if a > 0 else 0.0
    return yes + ((1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0)


def at_least(count: int, n: int, chance: float) -> float:
    """The chance that of n independent answers `count` or more are a yes, each at this chance."""
    if count <= 0:
        return 1.0
    if count > n or chance <= 0:
        return 0.0
    if chance >= 1:
        return 1.0
    odds = chance / (1 - chance)
    if count > n * chance:
        return _falling(_exactly(count, n, chance), count, n, odds)
    return 1 - _falling(_exactly(count - 1, n, chance), n - count + 1, n, 1 / odds)


def _falling(first: float, count: int, n: int, odds: float) -> float:
    """The sum of a binomial's chances from that of `count`, which is `first`, on, where each is less than the one
    before it. What is left out is too little for the last digit."""
    total, term = 0.0, first
    while term > total * 1e-17:
        total += term
        term *= (n - count) / (count + 1) * odds
        count += 1
    return min(total, 1.0)


def _exactly(count: int, n: int, chance: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    return math.exp(ways + count * math.log(chance) + (n - count) * math.log1p(-chance))
