"""Masters that were stored once are planned and cut as they always were, to the byte.

`masters/` holds them, written at the commit that `digests.json` names: their templates and plans
as they were stored then, their numbers made by `arithmetic`. What a model's id and plan stand for is kept by caches and
devices, so where one of these tests fails, the code has to change back, never the digest.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rightrank.models.emit import formats
from rightrank.models.plan.planner import Plan, Planner
from tests.golden.arithmetic import write

MASTERS = Path(__file__).parent / "masters"
DIGESTS = MASTERS / "digests.json"


def path_of(planner: Planner) -> str:
    """The SHA-256 of all sizes, in parameters, MACs and bytes, along the path of plans by parameters, then by MACs."""
    digest = hashlib.sha256()
    for path in (planner._path, planner._path_by_macs):
        for totals in (path.params, path.macs, path.bytes):
            digest.update(np.ascontiguousarray(totals, dtype="<i8").tobytes())
    return digest.hexdigest()


def said_of(plan: Plan) -> dict[str, Any]:
    """What a plan says of itself."""
    return {
        "digest": plan.digest,
        "ranks": list(plan.ranks),
        "params": plan.params,
        "macs": plan.macs,
        "bytes": plan.bytes,
    }


def written(folder: Path, plan: Plan) -> bytes:
    """The artifact of a plan of the master in `folder`."""
    file = io.BytesIO()
    formats.write(folder, plan, file)
    return file.getvalue()


def sizes() -> list[Any]:
    """Each master with each of its sizes; none yet where these functions help to record them."""
    found = []
    for name, master in json.loads(DIGESTS.read_text())["masters"].items() if DIGESTS.exists() else ():
        for size in master["sizes"]:
            asked = ",".join(f"{key}={value}" for key, value in size["arguments"].items())
            found.append(pytest.param(name, size, id=f"{name}-{asked}"))
    return found


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole masters."""
    folder = tmp_path_factory.mktemp("masters")
    for path in sorted(MASTERS.iterdir()):
        if path.is_dir():
            write(path, folder / path.name)
    return folder


@pytest.mark.parametrize("name", sorted(path.name for path in MASTERS.glob("*") if path.is_dir()))
def test_a_stored_master_has_the_plans_that_it_had(masters: Path, name: str) -> None:
    expected = json.loads(DIGESTS.read_text())["masters"][name]
    assert path_of(Planner.open(masters / name)) == expected["path"]


@pytest.mark.parametrize(("name", "size"), sizes())
def test_a_stored_master_is_cut_as_it_was(masters: Path, name: str, size: dict[str, Any]) -> None:
    plan = Planner.open(masters / name).plan(**size["arguments"])
    said = said_of(plan)
    assert said == {key: size[key] for key in said}
    data = written(masters / name, plan)
    assert len(data) == plan.bytes
    assert hashlib.sha256(data).hexdigest() == size["sha256"]
    module = torch.jit.load(io.BytesIO(data))  # type: ignore[no-untyped-call]
    assert sum(parameter.numel() for parameter in module.parameters()) == plan.params
