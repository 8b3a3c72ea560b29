from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rightrank.models.factor.gradients import Gradients


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 12), st.integers(1, 3), st.integers(0, 1000))
def test_a_weight_in_the_span_of_the_one_before_has_the_moments_that_its_outputs_tell(
    n: int, m: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    old = torch.randn(n, m, generator=generator).double()
    new = old @ (torch.eye(m) + 0.1 * torch.randn(m, m, generator=generator)).double()
    g, x = torch.randn(40, n, generator=generator).double(), torch.randn(40, m, generator=generator).double()
    square, normal, mean = g.T @ g, x.T @ x, x.mean(0)
    outputs = Gradients(square).moments(new, normal, mean, old)
    torch.testing.assert_close(outputs.covariance, new @ normal @ new.T)
    inputs = Gradients(old.T @ square @ old, "inputs", float(square.trace()) / n).moments(new, normal, mean, old)
    torch.testing.assert_close(inputs.gradient, new.T @ square @ new, rtol=1e-5, atol=1e-5)
    assert (inputs.side, inputs.axis) == ("inputs", 1) and torch.equal(inputs.covariance, normal)


def test_beside_the_span_of_the_old_outputs_all_directions_count_what_is_left() -> None:
    """Of gradients alike in all directions nothing is missed, wherever the new weight leads."""
    torch.manual_seed(0)
    old, new = torch.randn(9, 3).double(), torch.randn(9, 3).double()
    gradients = Gradients(old.T @ old * 2.0, "inputs", 2.0)
    found = gradients.moments(new, torch.eye(3).double(), torch.zeros(3).double(), old)
    torch.testing.assert_close(found.gradient, 2 * new.T @ new, rtol=1e-5, atol=1e-6)
