"""The same figures by torch and scikit-learn alone: a file is loaded, run over the data, and scored.

    python plain.py METRIC FILE DATA [ORIGINAL]

Imports nothing of this project.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from sklearn import metrics
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional

Array = NDArray[Any]
# Outputs of a float32 network depend on how many samples it takes at once; the service takes so many.
BATCH = 128
NEIGHBOURS = 10


def figure(metric: str, file: Path, data: Path, original: Path | None, names: Sequence[str]) -> float:
    """Of a file over data for inputs of these names (an only one may be called `inputs`)."""
    groups = read(data, names)
    outputs = run(file, groups)
    targets = [group["targets"] for group in groups if "targets" in group]
    if metric in AGAINST:
        assert original is not None
        return AGAINST[metric](outputs, run(original, groups))
    return SCORES[metric](outputs, targets)


def read(data: Path, names: Sequence[str]) -> list[dict[str, Array]]:
    """The arrays of each group by name, inputs before the targets."""
    arrays = load_file(data) if data.suffix == ".safetensors" else dict(np.load(data))
    grouped: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        base, _, number = name.partition(".")
        grouped.setdefault(number, {})[base] = array
    order = [*names, "inputs", "targets"]
    return [{name: found[name] for name in order if name in found} for _, found in sorted(grouped.items())]


def run(file: Path, groups: Sequence[Mapping[str, Array]]) -> list[Array]:
    """The outputs for each group in double precision."""
    model: Any = torch.jit.load(str(file))  # type: ignore[no-untyped-call]
    found = []
    with torch.inference_mode():
        for group in groups:
            inputs = [torch.from_numpy(array) for name, array in group.items() if name != "targets"]
            inputs = [each.float() if each.is_floating_point() else each for each in inputs]
            parts = [model(*batch) for batch in zip(*(torch.split(each, BATCH) for each in inputs), strict=True)]
            found.append(torch.cat(parts).double().numpy())
    return found


def classes(outputs: Sequence[Array], targets: Sequence[Array]) -> tuple[Array, Array]:
    """What was right and what was given, of all that count."""
    given = []
    for scores, wanted in zip(outputs, targets, strict=True):
        (axis,) = {axis for axis in (1, scores.ndim - 1) if np.delete(scores.shape, axis).tolist() == [*wanted.shape]}
        given.append(scores.argmax(axis).ravel())
    right = np.concatenate([each.ravel() for each in targets])
    return right[right != -100], np.concatenate(given)[right != -100]


def perplexity(outputs: Sequence[Array], targets: Sequence[Array]) -> float:
    scores, wanted = torch.from_numpy(np.concatenate(outputs)), torch.from_numpy(np.concatenate(targets))
    return float(functional.cross_entropy(scores.flatten(0, 1), wanted.flatten()).exp())


def divergence(outputs: Sequence[Array], originals: Sequence[Array]) -> float:
    pair = (torch.from_numpy(np.concatenate(each)) for each in (outputs, originals))
    mine, theirs = (each.flatten(0, 1).log_softmax(1) for each in pair)
    return float(functional.kl_div(mine, theirs, reduction="batchmean", log_target=True))


def cosine(outputs: Sequence[Array], originals: Sequence[Array]) -> float:
    pair = np.concatenate(outputs), np.concatenate(originals)
    return float(1 - metrics.pairwise.paired_cosine_distances(*pair).mean())


def overlap(outputs: Sequence[Array], originals: Sequence[Array]) -> float:
    mine, theirs = (
        NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine").fit(np.concatenate(each)).kneighbors()[1]
        for each in (outputs, originals)
    )
    return float(sum(len({*a} & {*b}) for a, b in zip(mine, theirs, strict=True)) / mine.size)


def flat(outputs: Sequence[Array], targets: Sequence[Array]) -> tuple[Array, Array]:
    """Targets and outputs, of one shape; what is a float as float32 has it."""
    wanted = np.concatenate(targets)
    wanted = wanted.astype(np.float32).astype(float) if wanted.dtype.kind == "f" else wanted
    return wanted, np.concatenate(outputs).reshape(wanted.shape)


SCORES: Mapping[str, Callable[[Sequence[Array], Sequence[Array]], float]] = {
    "top1": lambda outputs, targets: float(metrics.accuracy_score(*classes(outputs, targets))),
    "f1": lambda outputs, targets: float(metrics.f1_score(*classes(outputs, targets), average="macro")),
    "miou": lambda outputs, targets: float(metrics.jaccard_score(*classes(outputs, targets), average="macro")),
    "accuracy": lambda outputs, targets: float(np.equal(flat(outputs, targets)[0], np.concatenate(outputs) > 0).mean()),
    "auc": lambda outputs, targets: float(metrics.roc_auc_score(*flat(outputs, targets))),
    "mae": lambda outputs, targets: float(metrics.mean_absolute_error(*flat(outputs, targets))),
    "r2": lambda outputs, targets: float(metrics.r2_score(*flat(outputs, targets))),
    "perplexity": perplexity,
}
AGAINST: Mapping[str, Callable[[Sequence[Array], Sequence[Array]], float]] = {
    "divergence": divergence,
    "cosine": cosine,
    "overlap": overlap,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen, paths = sys.argv[1], [Path(text) for text in sys.argv[2:]]
    names = ["input_ids", "attention_mask", "images"]
    print(repr(figure(chosen, paths[0], paths[1], paths[2] if len(paths) > 2 else None, names)))
