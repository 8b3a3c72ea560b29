"""What a master's bases are worth by a criterion, and the path of plans that follows, as it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightrank.models.errors import DataError
from rightrank.models.factor.layer import Layer
from rightrank.models.master import entries
from rightrank.models.plan import path
from rightrank.models.plan.criteria import CRITERIA, Importance, Rule, Spectrum


def rule_of(criterion: str) -> Rule:
    """The criterion called so; DataError naming the choices where there is none."""
    try:
        return CRITERIA[criterion]
    except KeyError:
        raise DataError(f"There is no criterion {criterion!r}.", f"Choose one of {', '.join(CRITERIA)}.") from None


def rate(layers: Sequence[Layer], sigmas: Sequence[NDArray[np.float64]], rule: Rule) -> Importance:
    """Every basis's importance by a rule, from the layers' singular values."""
    if not sigmas:
        return []
    return rule.rate(
        [
            Spectrum(sigma, layer.params, layer.macs, layer.params_of_basis)
            for sigma, layer in zip(sigmas, layers, strict=True)
        ]
    )


def save_plans(layers: Sequence[Layer], importance: Importance, rule: Rule, out: Path) -> None:
    """Write the plans' file; the same bytes for the same importance."""
    growth = path.order(layers, importance)
    orders: dict[str, Any] = {"floor": growth.floor, "steps": growth.steps}
    if rule.per_parameter:
        orders["steps_by_macs"] = path.order(layers, importance, per_mac=True).steps
    flat = np.concatenate(importance) if importance else np.zeros(0)
    np.savez(out / entries.PLANS, importance=flat, **orders)
