"""What a master's files are called, and what the entries in them are."""

from __future__ import annotations

MASTER, TEMPLATE, PLANS, REFIT = "master.safetensors", "template.json", "plans.npz", "refit.safetensors"


def dense(tensor: str) -> str:
    """A tensor of the program."""
    return f"dense/{tensor}"


def uploaded(tensor: str) -> str:
    """A tensor of the program as uploaded, where that is another."""
    return f"uploaded/{tensor}"


def factor(side: str, layer: str) -> str:
    """A factor of a layer, at full rank and as its call takes it."""
    return f"{side}/{layer}"


def corrected(tensor: str) -> str:
    """What a bias or a norm's statistic becomes at each rank, a row for each."""
    return f"corrected/{tensor}"


def tuned(entry: str) -> str:
    """What a tuning has made of a factor's entry, or of the tensor of this name."""
    return f"tuned/{entry}"


def knots(tensor: str) -> str:
    """A norm's statistic after a tuning, a row for each knot (see `template.Tuned`)."""
    return f"knots/{tensor}"


def gradient(layer: str) -> str:
    """In `REFIT`: the second moment of the gradients of a layer's outputs, (n, n)."""
    return f"gradient/{layer}"


def reached(layer: str) -> str:
    """In `REFIT`, of a layer that is seen from its inputs: the second moment of the gradients there, (m, m)."""
    return f"reached/{layer}"


def far(layer: str) -> str:
    """Beside `reached`: the mean second moment of a gradient at one of the layer's outputs, (1,)."""
    return f"far/{layer}"
