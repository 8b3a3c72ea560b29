"""What the package makes of a network: its files in each precision and at each size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.bytes.study import Found, Study
from rightrank.models.emit import formats
from rightrank.models.emit import precision as precisions
from rightrank.models.emit.format import Output
from rightrank.models.emit.precision import written_in
from rightrank.models.errors import BudgetError
from rightrank.models.improve.choose import improve
from rightrank.models.improve.mixed import improve_mixed
from rightrank.models.plan.planner import Plan, Planner

# By the name that the service has for it, what files are written as; in TorchScript, or the format whose name precedes
# it. `auto` is bounded by bytes alone.
AUTO, WHOLE = "auto", "whole"
ONNX = Output("onnx", formats.newest()["onnx"])
PRECISIONS: Mapping[str, Output] = {
    **{
        name: written_in(formats.latest(), precisions.PRECISIONS[name]) for name in ("float32", "float16", "int8", AUTO)
    },
    "onnx int8": written_in(ONNX, precisions.PRECISIONS["int8"]),
    "onnx int4": written_in(ONNX, precisions.PACKED["int4"]),
}
# Before the name of a rival whose bytes a file of ours may have.
AT = "at the bytes of "


def sizes(study: Study, precision: str, effort: str) -> Sequence[str]:
    """The sizes that a precision is asked for: parts of the original's file; as a cut in fixed precision the whole
    network, too; with `auto` and a refit the bytes of the int8 and int4 files that there are."""
    parts = [f"1/{part}" for part in study.subject.parts]
    if precision != AUTO:
        return [WHOLE, *parts] if effort == "cut" else parts
    return [*parts, *(f"{AT}{name}" for name in study.rivals())] if effort == "refit" else parts


def made(study: Study, size: str, *, precision: str, effort: str) -> Found:
    """A file of ours, as small as `size` asks or the smallest there is, measured from its bytes."""
    folder, output = study.master(effort), PRECISIONS[precision]
    plan = planned(study, Planner.open(folder, output), precision, size)
    file, changes, won = study.folder / "variant.pt", study.folder / "changes.safetensors", ""
    improved = effort in ("refit", "polish") and not plan.original
    if improved:
        if output.coded:
            training = study.training if effort == "polish" else None
            won = improve_mixed(folder, plan, changes, study.progress, training=training)
        else:
            won = improve(folder, plan.ranks, changes, study.progress, output=output)
    with file.open("wb") as out:
        formats.write(folder, plan, out, changes if improved else None)
    if file.stat().st_size != plan.bytes:
        raise RuntimeError(f"planned {plan.bytes} bytes, wrote {file.stat().st_size}")
    return Found(plan.bytes, plan.params, study.answers(formats.format_of(output).load(file)), won)


def planned(study: Study, planner: Planner, precision: str, size: str) -> Plan:
    """The plan of a size. A part 1/k is one of the original's file, and in float32 one of its parameters, whatever
    a file holds besides."""
    template = planner.template
    try:
        if size == WHOLE:
            return planner.plan(1.0)
        if size.startswith(AT):
            return planner.plan(max_bytes=study.rivals()[size.removeprefix(AT)])
        part = int(size.removeprefix("1/"))
        if precision == "float32":
            return planner.plan(max_params=template.original.params // part)
        return planner.plan(max_bytes=original_bytes(study.master("cut")) // part)
    except BudgetError:
        return planner.smallest


def original_bytes(master: Path) -> int:
    """The size of the network as uploaded, in float32."""
    return Planner.open(master, PRECISIONS["float32"]).plan(1.0).bytes
