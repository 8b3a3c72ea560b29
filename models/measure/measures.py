"""All measures by name, which of them data are measured by, and whether the two fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from rightrank.models.errors import DataError
from rightrank.models.measure.agreement import Agreement
from rightrank.models.measure.classes import Overlap, Share, shown
from rightrank.models.measure.labels import Accuracy, Auc, binary, like
from rightrank.models.measure.language import Divergence, Perplexity
from rightrank.models.measure.measure import Measure
from rightrank.models.measure.metrics import METRICS
from rightrank.models.measure.numbers import Error, Explained
from rightrank.models.measure.vectors import Cosine, Retrieval
from rightrank.models.program.shapes import IGNORED, class_axis, squeezed

MEASURES: Mapping[str, Measure] = {
    measure.name: measure
    for measure in (
        *(Share("top1"), Share("top5", 5), Agreement("agreement")),
        *(Overlap("miou", union=True), Overlap("f1", union=False)),
        *(Accuracy("accuracy"), Auc("auc")),
        *(Perplexity("perplexity"), Divergence("divergence")),
        *(Cosine("cosine"), Retrieval("overlap")),
        *(Error("mse", 2), Error("mae", 1), Explained("r2")),
    )
}


def check(metric: str | None, outputs: Tensor, targets: Tensor | None, inputs: Sequence[Tensor] = ()) -> str:
    """The metric that a model is measured by: the publisher's choice, or what the data look like. `outputs` (b, …) are
    the model's first ones, for the first of `inputs`, `targets` (n, …) all targets. Raises DataError where they do not
    go together."""
    if metric is not None and metric not in METRICS:
        raise DataError(f"{metric!r} is no metric.", f"Choose one of {', '.join(METRICS)}.")
    name = metric or default(outputs, targets)
    if targets is None and not METRICS[name].original:
        raise DataError(f"The metric {name} needs targets.", "Upload evaluation data with `targets`.")
    of_classes = targets if METRICS[name].classes and not METRICS[name].original else None
    MEASURES[name].fit(outputs, targets, class_axis(outputs, inputs, of_classes))
    return name


def default(outputs: Tensor, targets: Tensor | None) -> str:
    """What outputs (b, …) are measured by against targets (n, …), by what these look like. Raises DataError for targets
    that look like something else than what they would be taken for."""
    if targets is None:
        return "agreement"
    same = like(outputs, targets)
    classes = outputs.shape[1] if outputs.ndim > 1 else 1
    if targets.is_floating_point():
        if same and one_hot(targets):
            raise DataError(
                "The targets look like classes, one-hot: in every row one 1 and the rest 0.",
                "Give class indices as integers (`targets.argmax(1)`), or say what they are by the option metric: mse "
                "for numbers, accuracy for labels of which each is yes or no.",
            )
        if same and binary(targets) and bool((targets == 1).any()):
            return "accuracy"
        if len(squeezed(targets.shape)) == 1 and classes > 1 and bool((targets == targets.round()).all()):
            raise DataError(
                f"The targets are whole numbers stored as floats, one for each input, and the model gives "
                f"{shown(outputs)}: they look like class indices.",
                "Give class indices as integers (`targets.long()`).",
            )
        return "mse"
    if same:
        if one_hot(targets):
            raise DataError(
                "The targets look like classes, one-hot: in every row one 1 and the rest 0.",
                "Give class indices (`targets.argmax(1)`), or choose the metric accuracy if each is a yes or no.",
            )
        if not binary(targets):
            raise DataError(
                f"The targets are integers of the shape of the model's output {shown(outputs)}, and more than 0 and 1.",
                "Give numbers as floats, for the metric mse; class indices have no axis for the classes.",
            )
        return "accuracy"
    return "top1"


def one_hot(targets: Tensor) -> bool:
    """Whether of 3 or more numbers along the second or the last axis there is one 1 at each place, the rest 0."""
    if targets.ndim < 2 or bool((targets == IGNORED).any()) or not binary(targets):
        return False
    axes = {axis for axis in (1, targets.ndim - 1) if targets.shape[axis] > 2}
    return any(bool((targets.sum(axis) == 1).all()) for axis in axes)
