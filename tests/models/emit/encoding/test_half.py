from __future__ import annotations

import numpy as np
import pytest
import torch

from rightrank.models.emit.encoding.half import Half
from rightrank.models.errors import PrecisionError
from rightrank.models.master.template import TensorSpec

HALF = Half()


def stored(numbers: torch.Tensor) -> torch.Tensor:
    """What stands for a tensor's numbers in a file."""
    return torch.from_numpy(HALF.encode(numbers.numpy().view(np.uint32), "float32")[""])


def test_numbers_are_rounded_as_torch_rounds_them() -> None:
    torch.manual_seed(0)
    numbers = torch.cat([torch.randn(40, 30), 1e-7 * torch.randn(40, 30), torch.zeros(1, 30)])
    assert stored(numbers).dtype == torch.float16
    assert torch.equal(stored(numbers), numbers.half())


def test_a_number_beyond_its_range_is_refused_and_one_that_never_was_finite_stays() -> None:
    assert torch.equal(
        stored(torch.tensor([[65504.0, float("-inf")]])), torch.tensor([[65504.0, float("-inf")]]).half()
    )
    with pytest.raises(PrecisionError, match="float16 goes up to 65,504, and a tensor of this model has -70000"):
        stored(torch.tensor([[1.0, -70_000.0]]))


@pytest.mark.parametrize(
    "spec", [TensorSpec("float32", (5,)), TensorSpec("int64", (5, 2)), TensorSpec("float64", (5, 2))]
)
def test_what_has_one_dimension_or_another_type_stays(spec: TensorSpec) -> None:
    array = np.zeros(spec.shape, np.uint8)
    assert HALF.parts(spec) == {"": spec} and HALF.encode(array, spec.dtype)[""] is array
    assert HALF.decode("x", spec, {}) == ()


def test_numbers_of_every_size_are_rounded_as_numpy_rounds_them() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, (300, 400), dtype=np.uint32)
    ties = (np.arange(0x7BFF, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32) + 0x1000)[:30_000]
    numbers = np.concatenate([bits, ties.reshape(-1, 400)]).view(np.float32)
    numbers = np.where(np.abs(numbers) < 65504, numbers, np.float32(0))
    wanted = numbers.astype(np.float16).view(np.uint16)
    assert np.array_equal(HALF.encode(numbers.view(np.uint32), "float32")[""].view(np.uint16), wanted)
