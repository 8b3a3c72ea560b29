"""What can be said of a master before it is made, by shapes as far as they tell; and the network by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from rightrank.models.assemble.build import Prepared, whole
from rightrank.models.assemble.plans import rate, rule_of, save_plans
from rightrank.models.assemble.values import values
from rightrank.models.emit.precision import mixable
from rightrank.models.factor.decompose import decompose
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.layer import Layer
from rightrank.models.master import entries
from rightrank.models.program.program import Program
from rightrank.models.progress import Progress, silent


def outline(ready: Prepared, out: Path, progress: Progress = silent) -> list[str]:
    """Writes to `out` what a planner reads of a master, with all bases worth alike, and gives the layers whose form is
    not the master's for sure.

    Where those that a layer can take are compared by an SVD of its weight, they are here. Where calibration inputs have
    a say they are not: then the layer has the form in which it can get smallest, the planner's smallest size is one
    that there is none smaller than, and files are as large as it says to some bytes of their text.
    """
    template, rule, tensors = ready.template, rule_of(ready.criterion), ready.program.tensors
    several = [layer for layer in template.decomposed if rule.any_form and {*layer.suits} - {layer.form.name}]
    formed: dict[str, Layer] = {}
    for layer in several:
        progress("decompose", len(formed), len(several), "layers")
        if rule.metric == "svd":
            formed[layer.name] = decompose(layer, tensors[layer.weight], None, FORMS)[0]
        else:
            formed[layer.name] = _smallest(layer)
    progress("decompose", len(several), len(several), "layers")
    layers = tuple(formed.get(layer.name, layer) for layer in template.layers)
    laws = values(ready.program, layers)
    template = replace(template, layers=layers, values=laws, rounded=mixable(template))
    out.mkdir(parents=True, exist_ok=True)
    template.save(out)
    alike = [np.ones(layer.rank) for layer in template.decomposed]
    save_plans(template.decomposed, rate(template.decomposed, alike, rule), rule, out)
    return [] if rule.metric == "svd" else [*formed]


def alone(ready: Prepared, uploaded: Program, out: Path) -> None:
    """Writes to `out` a master of which nothing can be cut: the network as it was uploaded, and as it is without what
    it does as well without."""
    template = replace(ready.template, layers=())
    out.mkdir(parents=True, exist_ok=True)
    save_file(whole(ready.program, uploaded, template), out / entries.MASTER)
    template.save(out)
    save_plans((), [], rule_of(ready.criterion), out)


def _smallest(layer: Layer) -> Layer:
    """The layer in the form that has the fewest parameters at rank 1."""
    several = [replace(layer, form=FORMS[name]) for name in {layer.form.name: None} | dict.fromkeys(layer.suits)]
    return min(several, key=lambda each: each.params_at(1))
