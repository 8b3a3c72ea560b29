"""Products of rows with themselves."""

from __future__ import annotations

from torch import Tensor

# Of more columns than these only the products of a block with itself and with later ones are worked out.
BLOCK = 256


def gram(rows: Tensor) -> Tensor:
    """The sum of each row's outer product with itself, (…, s, s) of rows (…, k, s)."""
    size = rows.shape[-1]
    if size <= BLOCK:
        return rows.mT @ rows
    found = rows.new_empty(*rows.shape[:-2], size, size)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        block = rows[..., start:stop].mT @ rows[..., start:]
        found[..., start:stop, start:] = block
        found[..., stop:, start:stop] = block[..., stop - start :].mT
    return found
