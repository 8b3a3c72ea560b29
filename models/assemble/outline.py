"""What can be said of a master before anything is decomposed, by shapes alone; and the network by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from rightrank.models.assemble.build import Prepared, whole
from rightrank.models.assemble.plans import rate, rule_of, save_plans
from rightrank.models.assemble.values import values
from rightrank.models.emit.precision import mixable
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.layer import Layer
from rightrank.models.master import entries
from rightrank.models.program.program import Program


def outline(ready: Prepared, out: Path) -> None:
    """Writes to `out` what a planner reads of a master, with each layer in the form in which it can get smallest, and
    all of its bases worth alike.

    What the planner says of the whole network holds, and of the smallest size that there is none smaller, files to some
    bytes of their text: which forms suit the numbers best is known once they are decomposed.
    """
    template, rule = ready.template, rule_of(ready.criterion)
    layers = tuple(_smallest(layer) if layer.decomposed and rule.any_form else layer for layer in template.layers)
    laws = values(ready.program, layers)
    template = replace(template, layers=layers, values=laws, rounded=mixable(template))
    out.mkdir(parents=True, exist_ok=True)
    template.save(out)
    alike = [np.ones(layer.rank) for layer in template.decomposed]
    save_plans(template.decomposed, rate(template.decomposed, alike, rule), rule, out)


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
