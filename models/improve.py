"""What a plan gains from work of its own: the corrections that help, chosen on inputs held back.

Each candidate changes some tensors of the cut: batch norms taken anew relative to the original (`renorm`),
layers refit (`refit`), or both. Every correction can hurt, so that one is kept whose outputs are nearest to
the original's on calibration inputs that none of them has seen; evaluation data play no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import variant
from models.emit.template import Template
from models.refit import affordable, refit
from models.renorm import renorm

BATCH = 64
CUT = "cut"
METHOD = "method"


def improve(
    folder: Path,
    ranks: Sequence[int],
    out: Path,
    progress: Callable[[str, int, int, str], None],
    classes: bool = True,
) -> str:
    """Find what is best for the plan `ranks` of the master in `folder`; write the tensors that it changes to `out`.

    The answer says what won: "cut" (nothing is changed), "cut+bn", "refit" or "refit+bn". A fifth of the
    calibration inputs are held back to decide; `classes` says what nearness is (see `variant.distance`). A
    program with a fixed batch size keeps its cut.
    """
    template = Template.open(folder)
    master, kept = load_file(folder / "master.safetensors"), load_file(folder / "refit.safetensors")
    inputs = kept["inputs"]
    count = len(inputs) // 5
    candidates: dict[str, Mapping[str, Tensor]] = {CUT: {}}
    best = CUT
    if template.graph.inputs[0].shape[0] is None and count and any(ranks):
        data, held = inputs[count:], inputs[:count]
        whole = {name: master[f"dense/{name}"] for name in template.tensors}
        gradients = [kept[f"gradient/{layer.name}"].double() for layer in template.decomposed]
        fitted = refit(template.graph, whole, template.decomposed, ranks, gradients, data, progress)
        candidates["refit"] = fitted
        few = data[: affordable(template.graph, whole, data)]
        entries = variant.sources(template, ranks)
        for name in (CUT, "refit"):
            cut = variant.tensors(template, master, ranks, candidates[name])
            moved = renorm(template.graph, whole, cut, few)
            if moved:
                renewed = {entries[tensor]: value.unsqueeze(0) for tensor, value in moved.items()}
                candidates[f"{name}+bn"] = {**candidates[name], **renewed}
        progress("compare", 0, 1, "plans")
        programs = [variant.tensors(template, master, ranks, each) for each in candidates.values()]
        distances = variant.distances(template.graph, whole, programs, held, min(BATCH, count), classes)
        best = min(zip(distances, candidates, strict=True), key=lambda pair: pair[0])[1]
    save_file(dict(candidates[best]), out, {METHOD: best})
    return best


def method_of(improved: Path) -> str:
    """What won, as a file written by `improve` says."""
    with safe_open(improved, "numpy") as file:
        return str(file.metadata()[METHOD])
