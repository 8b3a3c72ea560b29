from __future__ import annotations

import numpy as np

from rightrank.models.emit.executorch.halves import Halves
from rightrank.models.master.template import TensorSpec
from rightrank.models.program.graph import Ref


def test_matrices_are_halved_and_kernels_are_not() -> None:
    matrix, kernel = TensorSpec("float32", (4, 3)), TensorSpec("float32", (4, 3, 1, 1))
    assert Halves().parts(matrix) == {"": TensorSpec("float16", (4, 3))}
    assert Halves().parts(kernel) == {"": kernel}
    numbers = np.ones((4, 3), dtype=np.float32).view(np.uint32)
    assert Halves().encode(numbers, "float32")[""].dtype == np.float16
    assert Halves().encode(numbers.reshape(4, 3, 1, 1), "float32")[""].dtype == np.uint32
    assert len(Halves().decode("w", matrix, {"": Ref("h")})) == 1 and not Halves().decode("w", kernel, {"": Ref("h")})
