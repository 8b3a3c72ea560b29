"""Factors in half precision: what rounding makes of the first, the second makes good (ours).

A half has 8 or 11 binary digits, so a factor that is rounded is another one, and the second was not made for it. Each
of its rows is therefore solved anew, by least squares: the rounded bases up to it are to do what the bases up to it
did. Rows are taken in order and each is rounded before the next, which makes good what that missed. Nothing depends on
a later basis, so the factors of every rank are the leading rows still.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A row that stands for less of what inputs show than this share of the mean stays as it is: there is nothing to fit.
LIGHT = 1e-6
# So many rows at a time wait for each other; what those before them do is a product of matrices.
BLOCK = 64


def settled(down: Tensor, up: Tensor, spread: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Nested factors `down` (R×m) and `up` (R×n), in double, as they are stored in `dtype`.

    In half precision row k of `up` is the one that, beside the rounded rows before it, brings the rounded bases nearest
    to the first k as given, where inputs have the covariance `spread` (m×m; None: the identity). Which metric the
    outputs have makes no difference to it. In other types both are as given, rounded; so is a row of `up` that would
    leave the type's range.
    """
    first, second = down.to(dtype).contiguous(), up.to(dtype).contiguous()
    if torch.finfo(dtype).bits > 16:
        return first, second
    rounded = first.double()
    seen = rounded if spread is None else rounded @ spread
    inner, cross = seen @ rounded.T, (seen @ down.T).tril()
    pull = LIGHT * rounded.square().sum(1) * (1.0 if spread is None else spread.diagonal().mean())
    done = torch.empty_like(up)
    for start in range(0, len(up), BLOCK):
        rows, end = slice(start, start + BLOCK), min(start + BLOCK, len(up))
        left = cross[rows, :end] @ up[:end] - inner[rows, :start] @ done[:start]
        for index, row in enumerate(range(start, end)):
            # Nothing over nothing, of a row that says nothing, is not finite either.
            found = ((left[index] + pull[row] * up[row]) / (inner[row, row] + pull[row])).to(dtype)
            if bool(found.isfinite().all()):
                second[row] = found
            done[row] = second[row]
            left[index + 1 :] -= inner[rows, row][index + 1 :, None] * done[row]
    return first, second
