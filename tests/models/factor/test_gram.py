from __future__ import annotations

import pytest
import torch

from rightrank.models.factor.gram import BLOCK, gram


@pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 1, 3 * BLOCK - 7])
@pytest.mark.parametrize("groups", [(), (2,)])
def test_products_of_rows_with_themselves(size: int, groups: tuple[int, ...]) -> None:
    rows = torch.randn(*groups, 11, size, dtype=torch.float64)
    found = gram(rows)
    torch.testing.assert_close(found, rows.mT @ rows)
    torch.testing.assert_close(found, found.mT)
