from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rightrank.models.emit import formats
from rightrank.models.emit.encoding import encoding_of
from rightrank.models.emit.format import FIRST
from rightrank.models.errors import PrecisionError
from rightrank.models.improve.written import as_written, read_back
from rightrank.models.master.master import Master
from rightrank.models.master.variant import variant
from tests.models.nets import SHAPES, Small, planner


@pytest.mark.parametrize("encoding", ["plain", "half", "int8"])
def test_a_candidate_has_the_numbers_of_its_file(encoding: str, tmp_path: Path) -> None:
    _, folder, exact = planner(Small, tmp_path, "energy")
    output, stored = replace(FIRST, encoding=encoding), Master.open(folder).tensors()
    plan = exact.written_as(output).plan(max_params=int(0.6 * exact.template.params))
    file = io.BytesIO()
    formats.write(folder, plan, file)
    x = torch.randn(4, *SHAPES[Small])
    each = variant(exact.template, stored, plan.ranks)
    with torch.no_grad():
        ours, plain = (program.run((x,))[0] for program in (as_written(each, output), each.program()))
        of_file = torch.jit.load(io.BytesIO(file.getvalue()))(x)  # type: ignore[no-untyped-call]
    assert torch.allclose(ours, of_file, atol=1e-5, rtol=1e-4)
    assert torch.equal(ours, plain) == (encoding == "plain")


@pytest.mark.parametrize("encoding", ["half", "int8"])
def test_a_tensor_that_is_stored_as_it_is_comes_back_itself(encoding: str) -> None:
    for tensor in (torch.randn(5), torch.randn(5, 2).bfloat16(), torch.arange(6).reshape(2, 3)):
        assert read_back(tensor, encoding_of(encoding)) is tensor


def test_a_number_that_the_encoding_has_none_for_is_refused() -> None:
    with pytest.raises(PrecisionError, match="float16 goes up to 65,504"):
        read_back(torch.full((2, 2), 1e6), encoding_of("half"))
