from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from rightrank.models.measure.certificate import MOST, Counted, at_least, divergence, of_mean, passing
from rightrank.models.measure.measures import MEASURES
from rightrank.models.measure.metrics import METRICS


def exactly(count: int, n: int, chance: Fraction) -> Fraction:
    return math.comb(n, count) * chance**count * (1 - chance) ** (n - count)


def tail(count: int, n: int, chance: Fraction) -> Fraction:
    return sum((exactly(each, n, chance) for each in range(count, n + 1)), Fraction(0))


def one_each(right: int, n: int) -> Counted:
    return Counted(right / n, n, n, 1)


@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("chance", [Fraction(1, 50), Fraction(1, 2), Fraction(9, 10), Fraction(97, 100)])
def test_the_tail_of_a_binomial_is_exact(n: int, chance: Fraction) -> None:
    for count in range(n + 2):
        found, wanted = at_least(count, n, float(chance)), float(tail(count, n, chance))
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-13), count


def test_the_tail_of_very_many_is_that_of_a_normal_distribution() -> None:
    n, chance = 4_000_000, 0.25
    for z in (-3, -1, 0, 1, 3, 5):
        count = math.ceil(n * chance + z * math.sqrt(n * chance * (1 - chance)))
        assert at_least(count, n, chance) == pytest.approx(math.erfc(z / math.sqrt(2)) / 2, rel=0.01)


@pytest.mark.parametrize("n", [30, 99, 200])
@pytest.mark.parametrize("target", [Fraction(1, 2), Fraction(9, 10), Fraction(97, 100)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_a_share_below_the_target_passes_no_oftener_than_is_said(n: int, target: Fraction, confidence: float) -> None:
    """Counted out: every number of right answers, by its exact chance where the true share is just below."""
    passes = [one_each(right, n).p_value(float(target)) <= 1 - confidence for right in range(n + 1)]
    chance = float(sum((exactly(right, n, target) for right in range(n + 1) if passes[right]), Fraction(0)))
    assert chance <= 1 - confidence + 1e-12
    # And no more careful than it has to be: one right answer less is too often as good.
    least = passes.index(True) if True in passes else n + 1
    assert tail(least - 1, n, target) > 1 - confidence and all(passes[least:])


def test_what_no_samples_can_show_never_passes() -> None:
    assert one_each(100, 100).p_value(1.0) == 1.0 and one_each(100, 100).needed(1.0, 0.5) is None
    assert one_each(0, 100).p_value(0.0) == 0.0
    # Nothing but right answers: target to the power of n.
    assert one_each(58, 58).p_value(0.95) > 0.05 > one_each(59, 59).p_value(0.95)


def test_the_bound_for_numbers_is_that_of_the_paper() -> None:
    """Of losses with mean 0.02 on 500 samples, for a risk of 0.05."""
    n, loss, risk = 500, 0.02, 0.05
    hoeffding = math.exp(-n * (loss * math.log(loss / risk) + (1 - loss) * math.log((1 - loss) / (1 - risk))))
    bentkus = math.e * float(1 - tail(math.ceil(n * loss) + 1, n, Fraction(1, 20)))
    found = of_mean(1 - loss, n, 1 - risk)
    assert found == pytest.approx(min(hoeffding, bentkus), rel=1e-6) and hoeffding < 1 and bentkus < 1
    assert of_mean(0.95, n, 0.95) == 1.0 == of_mean(0.9, n, 0.95) and of_mean(1.0, n, 0.95) == pytest.approx(0.95**n)
    assert divergence(0.3, 0.3) == 0


@pytest.mark.parametrize("ignored", [0.0, 0.6])
def test_pixels_that_are_right_and_wrong_together_count_by_sample(ignored: float) -> None:
    """Half of the pixels of some images are wrong: with 64 answers a sample, taken for independent ones, a file below
    the target would pass far too often."""
    g = np.random.default_rng(0)
    n, places, target, sets = 300, 64, 0.9, 1500
    bad = g.random((sets, n)) < 0.205  # of those a half is wrong: the true share is 0.8975
    counts = places - g.binomial(places, ignored, (sets, n))
    right = np.where(bad, counts - counts // 2, counts)
    wrongly = dict.fromkeys((places, 1), 0)
    for each, answers in zip(right.sum(1), counts.sum(1), strict=True):
        for most in wrongly:
            n_of = n if most > 1 else int(answers)
            wrongly[most] += Counted(each / answers, n_of, int(answers), most).p_value(target) <= 0.05
    assert wrongly[places] <= 0.05 * sets < 2 * wrongly[1]
    # And it is no refusal of everything: a good file passes.
    answers = round(n * places * (1 - ignored))
    assert Counted(0.99 if not ignored else 0.999, n, answers, places).p_value(target) <= 0.05


@pytest.mark.parametrize(
    ("share", "target", "confidence"),
    [
        (one_each(485, 500), 0.96, 0.95),
        (one_each(198, 200), 0.985, 0.99),
        (one_each(120, 200), 0.57, 0.9),
        (Counted(0.96, 200, 190, 1), 0.95, 0.95),
        (Counted(0.96, 200, 200 * 64, 64), 0.95, 0.95),
        (Counted(0.96, 200, 100 * 64, 64), 0.95, 0.95),
    ],
)
def test_as_many_samples_as_it_is_said_to_take_do_and_one_fewer_do_not(
    share: Counted, target: float, confidence: float
) -> None:
    needed = share.needed(target, confidence)
    assert needed is not None and needed > share.n
    enough, short = share.of(needed), share.of(needed - 1)
    assert enough.p_value(target) <= 1 - confidence < short.p_value(target)
    assert enough.value == pytest.approx(share.value, abs=1 / enough.answers) and enough.value <= share.value
    assert enough.answers / enough.n == pytest.approx(share.answers / share.n, abs=1 / enough.n)


def test_a_share_at_the_target_takes_more_than_there_can_be() -> None:
    assert one_each(97, 100).needed(0.97, 0.95) is None and one_each(90, 100).needed(0.97, 0.95) is None
    assert Counted(0.97 + 1e-6, 100, 100, 1).needed(0.97, 0.95) is None
    close = Counted(0.5 + 5e-4, 10_000, 10_000, 1).needed(0.5, 0.95)
    assert close is not None and 10_000 < close <= MOST


def test_a_row_ends_at_the_first_that_does_not_pass() -> None:
    good, bad = one_each(500, 500), one_each(480, 500)
    assert [passing(row, 0.97, 0.95) for row in ([good, good], [good, bad, good], [bad, good], [])] == [2, 1, 0, 0]

    def row() -> object:
        yield good
        yield bad
        raise AssertionError("it is read further than it has to be")

    assert passing(row(), 0.97, 0.95) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METRICS)
def test_a_measure_counts_answers_just_where_its_metric_is_a_share(name: str) -> None:
    """And then the value is that share, and no sample has more answers than it says."""
    g = torch.Generator().manual_seed(0)
    outputs = torch.randn(40, 5, 6, generator=g)
    measure, facts = MEASURES[name], METRICS[name]
    if not facts.share:
        with pytest.raises(NotImplementedError, match="no share"):
            measure.most(outputs, 1)
        return
    truth = torch.randint(5, (40, 6), generator=g)
    if name == "accuracy":
        truth = torch.randint(2, outputs.shape, generator=g)
    truth[::3, 2:] = -100
    if facts.original:
        truth = measure.reference(torch.randn(40, 5, 6, generator=g), 1)
    tally = measure.tally(outputs, truth, 1)
    answers, most = measure.answers_of(tally), measure.most(outputs, 1)
    assert answers == (240 if facts.original else int((truth != -100).sum()))
    assert most == (30 if name == "accuracy" else 6) and answers <= most * 40
    right = measure.value(tally) * answers
    assert right == pytest.approx(round(right), abs=1e-9)
