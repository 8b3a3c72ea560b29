"""Reading uploads in a child process that can do little harm.

The child has hard limits on memory, processor time and file sizes, an empty environment (so no
credentials), no network where the kernel lets a user give that up, and its own process group, which is
killed when time is up. It leaves only JSON and safetensors behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rightrank
from rightrank.models.checkpoint.limits import MIB, Limits
from rightrank.models.errors import (
    DataError,
    MalformedCheckpoint,
    RightRankError,
    UnsafeCheckpoint,
    UnsupportedCheckpoint,
)

log = logging.getLogger(__name__)

_KINDS: dict[str, type[RightRankError]] = {
    error.kind: error for error in (UnsafeCheckpoint, UnsupportedCheckpoint, MalformedCheckpoint, DataError)
}
_ANSWER_BYTES = 64 * 1024
# Starting Python and importing torch from a cold disk is not the upload's doing.
_START_SECONDS = 60


def prepare(
    checkpoint: Path,
    out: Path,
    *,
    architecture: Mapping[str, Any] | None = None,
    evaluation: Path | None = None,
    calibration: Path | None = None,
    limits: Limits | None = None,
) -> None:
    """Read the uploads; write what was understood into the folder `out`:

        program.json             the graph (`Graph.to_json`)
        weights.safetensors      its tensors by qualified name, each once
        evaluation.safetensors   `inputs`, and `targets` if given
        calibration.safetensors  likewise

    Raises the CheckpointError or DataError that the child reports; UnsafeCheckpoint when it hits a limit.
    """
    limits = limits or Limits()
    out.mkdir(parents=True, exist_ok=True)
    request = {
        "checkpoint": str(checkpoint.resolve()),
        "out": str(out.resolve()),
        "architecture": None if architecture is None else dict(architecture),
        "evaluation": None if evaluation is None else str(evaluation.resolve()),
        "calibration": None if calibration is None else str(calibration.resolve()),
        "limits": dataclasses.asdict(limits),
    }
    with tempfile.TemporaryDirectory(prefix="rightrank-", dir=out.parent) as scratch:
        code, answer = _run(json.dumps(request).encode(), Path(scratch), limits)
    _raise_reported(code, answer, limits)


def _run(request: bytes, scratch: Path, limits: Limits) -> tuple[int, bytes]:
    """The child's exit status and the first bytes of what it printed."""
    with (scratch / "answer").open("w+b") as answer:
        child = subprocess.Popen(
            [sys.executable, "-s", "-m", "rightrank.models.checkpoint"],
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=subprocess.DEVNULL,
            # Where the package lies: `-m` looks in the working directory, and there is no PYTHONPATH.
            cwd=Path(rightrank.__file__).parents[1],
            env={"HOME": str(scratch), "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            child.communicate(request, timeout=limits.seconds + _START_SECONDS)
        except subprocess.TimeoutExpired:
            raise _too_slow(limits) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        answer.seek(0)
        return child.returncode, answer.read(_ANSWER_BYTES)


def _raise_reported(code: int, answer: bytes, limits: Limits) -> None:
    if code == -signal.SIGXCPU:
        raise _too_slow(limits)
    # The kernel kills a process that has used all its processor time, or all the machine's memory, with SIGKILL.
    if code in (-signal.SIGKILL, -signal.SIGABRT, -signal.SIGSEGV):
        raise UnsafeCheckpoint(
            f"Reading the file takes more than {limits.memory // MIB} MiB of memory.",
            "The operator can raise the limit.",
        )
    try:
        report = json.loads(answer)
    except ValueError:
        log.warning("The reader ended with status %d and no answer.", code)
        raise MalformedCheckpoint(
            "The file broke the reader.", "If it loads in torch, please report it with the model's code."
        ) from None
    if report["kind"] == "done":
        return
    if report.get("trace"):
        log.warning("The reader failed: %s", report["trace"])
    error = _KINDS.get(report["kind"], MalformedCheckpoint)
    raise error(str(report["detail"])[:2000], str(report["hint"])[:2000])


def _too_slow(limits: Limits) -> UnsafeCheckpoint:
    return UnsafeCheckpoint(
        f"Reading the file takes more than {limits.seconds} seconds.", "The operator can raise the limit."
    )
