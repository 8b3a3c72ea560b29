"""How coarse: the step at each output by which an error costs the network's outputs the same everywhere.

A number rounded to steps s is off by s²/12 in the mean square, at a price that its place has: `g_o · d_i`, what an
error in its output costs times what of its input cannot be made good. For a number of bits the loss of all numbers
together is least where step² times price is one number for the whole network, the square of its `grid`. So a layer of
N numbers loses about `N·grid²/12`, in the unit in which its bases are worth something. A grid of 0 is as fine as ±127
levels can be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rightrank.models.quantise.feedback import LARGEST

# What hardly matters on the calibration inputs counts for this share of the mean.
LEAST = 1e-2


def of_outputs(weight: Tensor, price: Tensor, left: Tensor, grid: float, sharing: int, dtype: torch.dtype) -> Tensor:
    """The steps (o,) of a weight (o, i) at a grid: `price` (o,) is what an error in each output costs, `left` (i,) what
    of the inputs is not made good. Of outputs so many neighbours have one step, `sharing`."""
    together = floored(price).reshape(-1, sharing).mean(1)
    wanted = grid / (together * left.mean().clamp_min(1e-300)).sqrt()
    return held(wanted, weight.reshape(len(together), -1), dtype).repeat_interleave(sharing)


def held(wanted: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Steps (k,), no finer than ±127 levels need for rows (k, c), as `dtype` holds them, in double; of nothing but
    zeros, one."""
    finest = rows.abs().amax(1) / LARGEST
    # A hair more, so that rounding to the type does not put the largest number beyond the last level.
    found = torch.maximum(wanted, finest * (1 + torch.finfo(dtype).eps))
    return as_stored(torch.where(finest > 0, found, 1.0), dtype)


def as_stored(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales as `dtype` holds them, in double, none of them nothing."""
    limits = torch.finfo(dtype)
    return scales.clamp(limits.tiny, limits.max).to(dtype).double()


def floored(price: Tensor) -> Tensor:
    """Prices, none below a share of their mean; where none is known, unity."""
    mean = float(price.clamp_min(0).mean())
    return price.clamp_min(LEAST * mean) if mean > 0 else torch.ones_like(price)
