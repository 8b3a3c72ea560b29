"""The criterion of arXiv:1812.08119: a channel is zero when its column's 2-norm is under a threshold.

The columns are those of the (k_h·k_w·C_in) × C_out matrix, which torch stores as the rows of the weight.
The paper's threshold is not known to us. Ours is the gap in the histogram of the norms: Adam with L2
leaves two heaps on a logarithmic scale, and any value between them separates the same columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Relative to the layer's largest norm: what rounding leaves of a zero, where there is no gap.
EXACT = 1e-7
# A gap is this many decades without a column, and nothing under it is larger than `SMALL`.
DECADES = 1.5
SMALL = 1e-2
_SMALLEST = 1e-30


def norms(weight: Tensor) -> Tensor:
    """The 2-norm of every column: (C_out, …) → (C_out,), in double."""
    found: Tensor = torch.linalg.vector_norm(weight.detach().float().flatten(1), dim=1)
    return found.double()


def cut(columns: Tensor, threshold: float | None = None) -> float:
    """The norm at or under which a column counts as zero.

    `threshold` is relative to the largest of `columns`; None looks for the gap.
    """
    largest = float(columns.max()) if columns.numel() else 0.0
    return largest * (gap(columns) if threshold is None else threshold)


def gap(columns: Tensor) -> float:
    """The middle of the widest gap in the logarithms of the norms, relative to the largest; `EXACT` if there is none.

    The smallest norms, under `EXACT`, count as one heap.
    """
    largest = float(columns.max()) if columns.numel() else 0.0
    if largest <= _SMALLEST:
        return EXACT
    logs = torch.log10((columns / largest).clamp_min(EXACT)).sort().values
    widths = logs.diff()
    widths[logs[:-1] > torch.log10(torch.tensor(SMALL))] = 0
    if not widths.numel() or float(widths.max()) < DECADES:
        return EXACT
    at = int(widths.argmax())
    return float(10 ** ((logs[at] + logs[at + 1]) / 2))
