"""The metrics by which a file may be measured, by name, and what is to be known of each (the mathematics: `measures`).

Without torch, since the service checks a publisher's choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """What is to be known of a metric without data.

    higher: better the higher it is, and at most 1. original: a file is held against what the original gives, else
    against targets. classes: the outputs are scores of classes of which one is right, so that nearness is that of
    their probabilities. answers: an output is an answer that is the original's or another. share: the value is the
    share of answers that are right, of which each sample has its own (see `certificate`).
    """

    name: str
    higher: bool = True
    original: bool = False
    classes: bool = False
    answers: bool = False
    share: bool = False


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("top1", classes=True, answers=True, share=True),
        Metric("top5", classes=True, answers=True, share=True),
        Metric("mse", higher=False),
        Metric("agreement", original=True, classes=True, answers=True, share=True),
        Metric("miou", classes=True, answers=True),
        Metric("f1", classes=True, answers=True),
        Metric("accuracy", answers=True, share=True),
        Metric("auc", answers=True),
        Metric("perplexity", higher=False, classes=True, answers=True),
        Metric("divergence", higher=False, original=True, classes=True, answers=True),
        Metric("cosine", original=True),
        Metric("overlap", original=True),
        Metric("mae", higher=False),
        Metric("r2"),
    )
}
