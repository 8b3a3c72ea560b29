"""Reading uploads in a child process that can do little harm.

The child (`readers`) puts on every layer of `models/confinement` before it opens a file: it then has hard limits, no
capabilities, no file but its own and Python's, and only the system calls that reading needs. It is killed when time is
up or the parent ends, and leaves only JSON and safetensors behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rightrank.models.checkpoint.limits import FILES, LOST, MIB, Limits
from rightrank.models.checkpoint.readers import ReaderLost, Readers
from rightrank.models.confinement import layers
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
# Starting Python and importing torch from a cold disk is not the upload's doing.
_START_SECONDS = 60
# How a process ends that somebody else ends, be it the kernel for want of memory or of a disk that reads.
_FROM_OUTSIDE = frozenset(
    (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGBUS, signal.SIGPIPE)
)


class NotConfined(Exception):
    """Layers that were required do not hold here, so the child opened nothing: elsewhere it may."""


def prepare(
    checkpoint: Path,
    out: Path,
    *,
    architecture: Mapping[str, Any] | None = None,
    evaluation: Path | None = None,
    calibration: Path | None = None,
    limits: Limits | None = None,
    required: bool = False,
    readers: Readers,
) -> Mapping[str, bool]:
    """Read the uploads; write what was understood into the folder `out`:

        program.json             the graph (`Graph.to_json`)
        weights.safetensors      its tensors by qualified name, each once
        notes.json               a list of sentences, where something of the file was left out or read otherwise
        evaluation.safetensors   the samples, and their targets if given (`Data.tensors`)
        calibration.safetensors  likewise

    required: whether to refuse where a required layer of confinement (`layers.REQUIRED`) does not hold. Otherwise the
    child puts on what it can. readers: have the child. Returns the layers, and whether each held.

    Raises the CheckpointError or DataError that the child reports; UnsafeCheckpoint when it hits a limit. Raises
    ReaderLost, NotConfined and `OSError` for what is not the upload's fault.
    """
    limits = limits or Limits()
    out.mkdir(parents=True, exist_ok=True)
    out = out.resolve()
    given = dict(zip(FILES, (checkpoint, evaluation, calibration), strict=True))
    request = {
        **{name: None if path is None else str(path.resolve()) for name, path in given.items()},
        "out": str(out),
        "architecture": None if architecture is None else dict(architecture),
        "limits": dataclasses.asdict(limits),
        "required": required,
    }
    code, answer = readers.ask(request, limits.seconds + _START_SECONDS)
    held = _held(code, answer)
    if code == 0 and not held["seccomp"]:
        # It may have started others, which end with what made it; after any other end that has been renewed.
        readers.renew()
    if required and (missing := layers.missing(held)):
        raise NotConfined(f"No upload is read here without the layers {', '.join(missing)}, which this system lacks.")
    _raise_reported(code, answer, limits)
    _check_left(out)
    return held


def _held(code: int | None, answer: bytes) -> Mapping[str, bool]:
    """Which layers the child said to hold: its first line. Raises ReaderLost where it never came so far."""
    line, end, _ = answer.partition(b"\n")
    if not end:
        raise ReaderLost(f"The reader {_ending(code)} before it opened the file.")
    said = json.loads(line)
    return {name: said[name] is True for name in layers.LAYERS}


def _raise_reported(code: int | None, answer: bytes, limits: Limits) -> None:
    if code is None or code == -signal.SIGXCPU:
        raise UnsafeCheckpoint(
            f"Reading the file takes more than {limits.seconds} seconds.", "The operator can raise the limit."
        )
    if code == LOST or -code in _FROM_OUTSIDE:
        raise ReaderLost(f"The reader {_ending(code)} while it read; if that stays, give it more memory or disk.")
    # What a library does that gets no more memory.
    if code in (-signal.SIGABRT, -signal.SIGSEGV):
        raise UnsafeCheckpoint(
            f"Reading the file takes more than {limits.memory // MIB} MiB of memory.",
            "The operator can raise the limit.",
        )
    try:
        report = json.loads(answer.partition(b"\n")[2])
    except ValueError:
        log.warning("The reader %s and gave no answer.", _ending(code))
        raise MalformedCheckpoint(
            "The file broke the reader.", "If it loads in torch, please report it with the model's code."
        ) from None
    if report["kind"] == "done":
        return
    if report["kind"] == "lost":
        raise ReaderLost(str(report["detail"])[:2000])
    if report.get("trace"):
        log.warning("The reader failed: %s", report["trace"])
    error = _KINDS.get(report["kind"], MalformedCheckpoint)
    raise error(str(report["detail"])[:2000], str(report["hint"])[:2000])


def _ending(code: int | None) -> str:
    """An exit status in words."""
    if code is None:
        return "took too long"
    if code >= 0:
        return f"ended with status {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def _check_left(out: Path) -> None:
    """What the child left are plain files: whoever opens them opens nothing else by them. Raises UnsafeCheckpoint."""
    for name in os.listdir(out):
        found = os.lstat(out / name)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise UnsafeCheckpoint("Reading the file left something that is no plain file.")
