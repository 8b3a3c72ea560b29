"""How often the intervals of each measure hold the truth.

    python -m benchmarks.coverage [--quick]

A population of samples is simulated: what a plausible network gives for each, and what would have been right. Its
measure is the truth. Evaluation sets are drawn from it, and each gives a value and an interval of 95 %. Classes are as
unlike in number as they are in life (the rarest of them a fortieth of all), the pixels of an image and the tokens of a
text are right and wrong together, and how hard a sample is varies.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from rightrank.models.measure.measures import MEASURES

RESULTS = Path(__file__).parents[1] / "docs" / "results"
POPULATION = 20_000
SIZES = (200, 1000)
DRAWS = 1000
# A share of samples of each class: from a fortieth to a fifth.
RARE = torch.tensor([0.21, 0.18, 0.15, 0.13, 0.11, 0.09, 0.06, 0.045, 0.025])
# Outputs, and targets or the original's outputs, of all samples.
Samples: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class World:
    """What one measure is tried on: `make` draws that many samples, of which `population` are all there are."""

    metric: str
    what: str
    make: Callable[[int, torch.Generator], Samples]
    population: int = POPULATION
    # Where a measure is of a set rather than of samples, its truth is the mean over sets of one size.
    of_sets: bool = False


def classes(n: int, g: torch.Generator, places: int = 1, size: int = len(RARE)) -> Samples:
    """Scores of classes at `places` of each sample, (n, C) or (n, C, places), and which is right."""
    shares = RARE[:size] / RARE[:size].sum()
    # An image has a few of the classes: each place is of one of three that the image drew.
    drawn = torch.multinomial(shares, n * 3, replacement=True, generator=g).reshape(n, 3)
    picks = torch.randint(3 if places > 1 else 1, (n, places), generator=g)
    right = drawn.gather(1, picks)
    ease = 1.6 + 1.2 * torch.randn(n, 1, generator=g) + 0.5 * torch.randn(n, places, generator=g)
    scores = torch.randn(n, places, size, generator=g) + 0.6 * torch.randn(n, 1, size, generator=g)
    scores.scatter_add_(2, right[..., None], ease[..., None])
    return (scores[:, 0], right[:, 0]) if places == 1 else (scores.movedim(2, 1), right)


def labels(n: int, g: torch.Generator, count: int) -> Samples:
    """Logits (n, count) of labels, the rarest one in twenty; of one label it is one in five."""
    shares = torch.linspace(0.2, 0.05, count)
    right = torch.rand(n, count, generator=g) < shares
    scores = torch.randn(n, count, generator=g) + 0.5 * torch.randn(n, 1, generator=g)
    return scores + right * 2.5 - 1.5, right.long()


def tokens(n: int, g: torch.Generator) -> Samples:
    """A decoder's logits (n, 24, 40), and the tokens that came: of some texts it knows far less than of others."""
    scores = 1.5 * torch.randn(n, 24, 40, generator=g)
    temperature = torch.exp(0.5 * torch.randn(n, 1, 1, generator=g))
    right = torch.multinomial((scores / temperature).softmax(-1).reshape(-1, 40), 1, generator=g).reshape(n, 24)
    return scores, right


def cut_tokens(n: int, g: torch.Generator) -> Samples:
    """A cut decoder's logits and the original's: off by more in some texts than in others."""
    scores = 2 * torch.randn(n, 24, 40, generator=g)
    off = 0.3 * torch.exp(0.6 * torch.randn(n, 1, 1, generator=g))
    return scores + off * torch.randn(n, 24, 40, generator=g), scores


def vectors(n: int, g: torch.Generator, width: int = 24) -> Samples:
    """Embeddings in clusters, of a cut and of the original."""
    centres = torch.randn(20, width, generator=g)
    original = centres[torch.randint(20, (n,), generator=g)] + 0.7 * torch.randn(n, width, generator=g)
    off = 0.3 * torch.exp(0.6 * torch.randn(n, 1, generator=g))
    return original + off * torch.randn(n, width, generator=g), original


def spread(n: int, g: torch.Generator, width: int = 24) -> Samples:
    """Embeddings that vary more in some directions than in others, of a cut and of the original."""
    original = torch.randn(n, width, generator=g) * torch.linspace(2, 0.2, width)
    off = 0.2 * torch.exp(0.6 * torch.randn(n, 1, generator=g))
    return original + off * torch.randn(n, width, generator=g), original


def numbers(n: int, g: torch.Generator) -> Samples:
    """Numbers (n, 1) whose errors have heavy tails: normal, but of a spread that varies from sample to sample."""
    right = torch.randn(n, 1, generator=g) * 2
    return right + 0.8 * torch.exp(0.35 * torch.randn(n, 1, generator=g)) * torch.randn(n, 1, generator=g), right


WORLDS = (
    World("top1", "9 classes", classes),
    World("top1", "9 classes at 64 pixels", lambda n, g: classes(n, g, 64), 8_000),
    World("top5", "9 classes", classes),
    World("agreement", "9 classes", lambda n, g: (classes(n, g)[0], classes(n, g)[1][:, None, None])),
    World("miou", "5 classes at 64 pixels", lambda n, g: classes(n, g, 64, 5), 8_000),
    World("miou", "9 classes at 64 pixels", lambda n, g: classes(n, g, 64), 8_000),
    World("f1", "5 classes", lambda n, g: classes(n, g, 1, 5)),
    World("f1", "9 classes", classes),
    World("f1", "9 classes at 24 tokens", lambda n, g: classes(n, g, 24), 8_000),
    World("accuracy", "one logit", lambda n, g: labels(n, g, 1)),
    World("accuracy", "8 labels", lambda n, g: labels(n, g, 8)),
    World("auc", "one logit", lambda n, g: labels(n, g, 1)),
    World("auc", "8 labels", lambda n, g: labels(n, g, 8)),
    World("perplexity", "24 tokens of 40", tokens, 8_000),
    World("divergence", "24 tokens of 40", cut_tokens, 8_000),
    World("cosine", "24 numbers", vectors),
    World("overlap", "24 numbers in clusters", vectors, of_sets=True),
    World("overlap", "24 numbers, no clusters", spread, of_sets=True),
    World("mse", "heavy tails", numbers),
    World("mae", "heavy tails", numbers),
    World("r2", "heavy tails", numbers),
)


def coverage(world: World, size: int, draws: int, seed: int = 0) -> dict[str, str | float | int]:
    """How many of `draws` sets of `size` samples have an interval that holds the truth, and how wide these are."""
    g = torch.Generator().manual_seed(seed)
    outputs, truth = world.make(world.population, g)
    measure = MEASURES[world.metric]
    axis = 2 if world.metric in ("perplexity", "divergence") else min(1, outputs.ndim - 1)
    reference = measure.reference(truth, axis) if measure.metric.original and world.metric != "agreement" else truth
    everyone = measure.tally(outputs, reference, axis)
    started = time.monotonic()
    found = []
    for _ in range(draws):
        drawn = (
            torch.randint(len(outputs), (size,), generator=g) if not world.of_sets else _apart(len(outputs), size, g)
        )
        tally = everyone.take(drawn)
        found.append((measure.value(tally), *measure.interval(tally)))
    seconds = (time.monotonic() - started) / draws
    values, lows, highs = (torch.tensor(column, dtype=torch.float64) for column in zip(*found, strict=True))
    right = float(values.mean()) if world.of_sets else measure.value(everyone)
    below, above = float((lows > right).double().mean()), float((highs < right).double().mean())
    return {
        "metric": world.metric,
        "of": world.what,
        "n": size,
        "draws": draws,
        "truth": round(right, 4),
        "mean": round(float(values.mean()), 4),
        "width": round(float((highs - lows).mean()), 4),
        "coverage": round(1 - below - above, 4),
        "too high": round(below, 4),
        "too low": round(above, 4),
        "ms": round(1000 * seconds, 2),
    }


def _drawn(n: int, size: int, g: torch.Generator) -> Tensor:
    return torch.randint(n, (size,), generator=g)


def _apart(n: int, size: int, g: torch.Generator) -> Tensor:
    """Samples none of which comes twice: the nearest to such a one would be itself."""
    return torch.randperm(n, generator=g)[:size]


def rows(worlds: Sequence[World], sizes: Sequence[int], draws: int) -> Iterator[dict[str, str | float | int]]:
    for world in worlds:
        for size in sizes:
            yield coverage(world, size, draws)


def table(found: Sequence[dict[str, str | float | int]]) -> str:
    """For a page: a line for each measure and what it was tried on."""
    lines = ["| measure | of | n | truth | width | coverage |", "| --- | --- | --- | --- | --- | --- |"]
    for row in found:
        share = f"{100 * float(row['coverage']):.1f} %"
        lines.append(f"| `{row['metric']}` | {row['of']} | {row['n']} | {row['truth']} | {row['width']} | {share} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few sets, and nothing written")
    parser.add_argument("--only", help="one measure")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for row in rows(
        [world for world in WORLDS if asked.only in (None, world.metric)], SIZES, 50 if asked.quick else DRAWS
    ):
        found.append(row)
        error = math.sqrt(0.95 * 0.05 / int(row["draws"]))
        print(" ".join(f"{name}={value}" for name, value in row.items()), f"(± {error:.4f})", flush=True)
    if not asked.quick and not asked.only:
        with (RESULTS / "coverage.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, found[0].keys())
            writer.writeheader()
            writer.writerows(found)
        print(table(found))


if __name__ == "__main__":
    main()
