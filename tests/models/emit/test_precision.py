"""Files in every precision: as large as planned, running, and with the outputs that rounding the tensors gives."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from torch import Tensor

from rightrank.models.emit import formats
from rightrank.models.emit.encoding import ENCODINGS
from rightrank.models.emit.format import FIRST, Output
from rightrank.models.emit.precision import NAMES, NESTED, PRECISIONS, encoding_in, precisions, written_in
from rightrank.models.errors import BudgetError, PrecisionError
from rightrank.models.master.master import Master
from rightrank.models.master.template import TensorSpec
from rightrank.models.master.variant import variant
from rightrank.models.plan.planner import Plan, Planner
from tests.models.nets import SHAPES, Halved, Separable, Shared, Small, build, planner, source

Case: TypeAlias = tuple[torch.nn.Module, Path, Planner]
OTHERS = [name for name in PRECISIONS if name != "float32"]
# With a path of their own ("auto") ranks are not those of the same parameters.
ROUNDED = ["float16", "int8"]


@pytest.fixture(scope="module", params=[Small, Shared, Halved, Separable])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return planner(request.param, tmp_path_factory.mktemp("precision"), "energy", mixed=True)


def within(case: Case, precision: str) -> Planner:
    return case[2].written_as(written_in(FIRST, PRECISIONS[precision]))


def emit(folder: Path, plan: Plan) -> bytes:
    file = io.BytesIO()
    formats.write(folder, plan, file)
    return file.getvalue()


def rounded(tensor: Tensor, precision: str) -> Tensor:
    """A tensor in a precision, worked out by torch."""
    if tensor.dtype != torch.float32 or tensor.ndim < 2:
        return tensor
    if precision == "float16":
        return tensor.half().float()
    scale = tensor.abs().flatten(1).amax(1).div(127).reshape(-1, *[1] * (tensor.ndim - 1))
    return torch.where(scale > 0, (tensor / scale.where(scale > 0, 1)).round().clamp(-127, 127) * scale, 0)


@pytest.mark.parametrize("precision", ROUNDED)
def test_a_file_has_the_planned_bytes_and_the_outputs_of_the_rounded_tensors(case: Case, precision: str) -> None:
    module, folder, _ = case
    found, master = within(case, precision), Master.open(folder)
    x = torch.randn(3, *SHAPES[type(module)])
    for size in (found.smallest.params, int(0.7 * found.template.params), found.largest.params):
        plan = found.plan(max_params=size)
        data = emit(folder, plan)
        assert len(data) == plan.bytes and not plan.original
        cut = variant(found.template, master.tensors(), plan.ranks)
        factors = {n: {s: rounded(t, precision) for s, t in sides.items()} for n, sides in cut.factors.items()}
        whole = {name: rounded(tensor, precision) for name, tensor in cut.whole.items()}
        with torch.no_grad():
            outputs = torch.jit.load(io.BytesIO(data))(x)
            wanted = cut.with_(whole, factors).program().run((x,))[0]
            exact = cut.program().run((x,))[0]
        assert torch.allclose(outputs, wanted, atol=1e-5, rtol=1e-4)
        assert 0 < float((outputs - exact).abs().max()) < 0.1 * float(exact.abs().max())


@pytest.mark.parametrize("precision", OTHERS)
def test_every_plan_on_the_path_has_the_predicted_size(case: Case, precision: str) -> None:
    found = within(case, precision)
    for count in {*range(0, len(found), 5), len(found) - 1}:
        plan = found._at(count)
        assert len(emit(case[1], plan)) == plan.bytes


@pytest.mark.parametrize("precision", OTHERS)
def test_the_same_bytes_come_again_in_another_process(case: Case, precision: str) -> None:
    _, folder, _ = case
    plan = within(case, precision).smallest
    data = emit(folder, plan)
    code = (
        "import sys; from pathlib import Path; from rightrank.models.emit import formats; "
        "from rightrank.models.emit.format import Output; from rightrank.models.plan.planner import Planner; "
        "d = Path(sys.argv[1]); p = Planner.open(d, Output(writer=2, encoding=sys.argv[2])).smallest; "
        "formats.write(d, p, sys.stdout.buffer)"
    )
    command = [sys.executable, "-c", code, str(folder), PRECISIONS[precision]]
    again = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    assert emit(folder, plan) == again.stdout == data


def test_a_budget_is_a_share_of_the_parameters_and_of_the_file_as_uploaded(case: Case) -> None:
    _, folder, exact = case
    original, found = exact.plan(budget=1), within(case, "float16")
    for budget in (1.0, 0.95, 0.9):
        plan = found.plan(budget=budget)
        assert plan.params <= budget * original.params and plan.bytes <= budget * original.bytes
        after = found._at(found._path.params.tolist().index(plan.params) + 1) if plan != found.largest else None
        assert after is None or after.params > budget * original.params or after.bytes > budget * original.bytes
    # Half of the bytes for the same parameters: more of these within the same limit of bytes.
    limit = exact.plan(budget=0.9).bytes
    assert found.plan(max_bytes=limit).params >= exact.plan(max_bytes=limit).params


def test_only_exact_numbers_are_the_original_and_no_plan_is_anothers(case: Case) -> None:
    plans = [within(case, name).largest for name in PRECISIONS]
    assert [plan.original for plan in plans] == [True, *(False for _ in OTHERS)]
    assert len({plan.digest for plan in plans}) == len(plans)
    assert [Plan.from_json(plan.to_json()) for plan in plans] == plans
    assert plans[0] == case[2].plan(budget=1)


def test_whole_halved_networks_leave_their_zeros_out(case: Case) -> None:
    module, _, exact = case
    for name in OTHERS:
        whole = within(case, name).largest
        assert whole.params == exact.template.params and not any(whole.ranks)
    assert (exact.template.uploaded is not None) == isinstance(module, Halved)


def test_a_limit_that_no_file_meets_names_the_nearest_in_that_precision(case: Case) -> None:
    found = within(case, "int8")
    with pytest.raises(BudgetError) as refused:
        found.plan(max_bytes=10)
    assert refused.value.nearest is not None
    assert found.plan(max_bytes=int(refused.value.nearest)).bytes == refused.value.nearest
    with pytest.raises(BudgetError) as refused:
        found.plan(budget=1e-6)
    assert refused.value.nearest == found.least() and found.plan(budget=found.least()).budget <= found.least()


def test_a_network_too_small_for_a_precision_is_told_to_take_another(tmp_path: Path) -> None:
    build(source(torch.nn.Linear(4, 3), (4,), tmp_path / "source"), tmp_path / "master")
    found = Planner.open(tmp_path / "master", Output(writer=2, encoding="int8"))
    assert found.least() > 1 and found.possible() == []
    with pytest.raises(BudgetError, match="larger than the one as uploaded: none meets `budget=1`. Ask for another"):
        found.plan(budget=1)


def test_a_model_has_those_that_its_numbers_allow_its_own_first(case: Case) -> None:
    template = case[2].template
    assert template.rounded and precisions(template, True) == PRECISIONS | NESTED
    assert precisions(replace(template, rounded=False), True) == PRECISIONS
    assert list(precisions(template, False)) == ["float32", "float16", "int8"]
    single, half = TensorSpec("float32", (4, 4)), TensorSpec("float16", (8, 8))
    for tensors, wanted in (
        ({"a": half}, ["float16"]),
        ({"a": half, "b": single}, ["float16", "int8"]),
        ({"a": TensorSpec("bfloat16", (8, 8)), "n": TensorSpec("int64", (99, 99))}, ["bfloat16"]),
        ({"a": TensorSpec("float32", (99,))}, ["float32"]),
        ({}, ["float32"]),
    ):
        layers = tuple(replace(template.layers[0], weight=name) for name in tensors)
        found = precisions(replace(template, tensors=tensors, layers=layers, uploaded=None), False)
        assert list(found) == wanted and set(found) <= set(NAMES)
        assert encoding_in(found, wanted[0]) == "plain"
    with pytest.raises(PrecisionError, match="cannot have the precision 'int8'. They have float16"):
        encoding_in({"float16": "plain"}, "int8")


def test_every_precision_is_an_encoding_that_is_there() -> None:
    assert {*PRECISIONS.values(), *NESTED.values()} <= set(ENCODINGS)
    assert [name for name, encoding in PRECISIONS.items() if Output(encoding=encoding).exact] == ["float32"]
