"""Damaged files by the hundred, read by the confined child: whatever comes of them, nothing around it changes.

    python -m tests.hostile.mutated [COUNT] [SEED]

One child reads one after the other, since starting one takes far longer; where one ends on a file, the next goes on
behind it. Prints what came of them, and ends with an error where anything outside has changed.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rightrank.models.checkpoint import readers, sandbox
from rightrank.models.checkpoint.limits import Limits
from rightrank.models.checkpoint.readers import Readers
from rightrank.models.errors import RightRankError
from tests.hostile import acts, corpus

LIMITS = Limits(memory=2 << 30, seconds=1200)


@dataclass
class Found:
    """What came of each file, counted; the files that a child ended on; what changed outside."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    ended: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


def damaged(folder: Path, canary: Path, count: int, seed: int) -> None:
    """Writes `count` files, each an honest or a hostile one with some bytes changed, cut out, doubled or cut off."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = Path(place) / "state"
        corpus.torch.save(corpus.honest_state(), state)
        hostile = [case.path.read_bytes() for case in corpus.checkpoints(Path(place), canary)]
        honest = [corpus.honest(), state.read_bytes()]
    # The corpus has a few files of many megabytes, which say nothing more for being damaged.
    hostile = [data for data in hostile if 0 < len(data) < 1 << 20]
    for number in range(count):
        data = bytearray(draw.choice(honest if draw.random() < 0.5 else hostile))
        for _ in range(draw.choice((1, 1, 2, 8))):
            at, most = draw.randrange(len(data)), draw.choice((1, 4, 64))
            match draw.randrange(5):
                case 0:
                    data[at : at + most] = draw.randbytes(most)
                case 1:
                    data[at] ^= 1 << draw.randrange(8)
                case 2:
                    data[at:at] = data[at : at + most]
                case 3 if len(data) > most + 1:
                    del data[at : at + most]
                case 4 if draw.random() < 0.2:
                    del data[at + 1 :]
        (folder / f"{number:05}").write_bytes(data)


def do(request: Mapping[str, Any]) -> None:
    """The child: reads the files of a folder from a given one on, and notes each before and after."""
    from rightrank.models.checkpoint.reader import read

    out = Path(request["out"])
    with (out / "log").open("a", buffering=1) as log:
        for path in sorted(Path(request["checkpoint"]).iterdir())[request["architecture"]["first"] :]:
            log.write(f"{path.name}\n")
            try:
                read(path, corpus.ARCHITECTURE, LIMITS).save(out)
                log.write("read\n")
            except RightRankError as error:
                log.write(f"{error.kind}\n")
            except Exception as error:
                log.write(f"unforeseen: {type(error).__name__}\n")


def run(count: int, seed: int = 0) -> Found:
    """Has `count` files read."""
    found = Found()
    with (
        acts.scene(os.getuid()) as places,
        tempfile.TemporaryDirectory() as elsewhere,
        pytest.MonkeyPatch.context() as patch,
        contextlib.closing(Readers(Path(places["out"]))) as own,
    ):
        uploads, canary = Path(elsewhere) / "uploads", Path(elsewhere) / "canary"
        uploads.mkdir()
        damaged(uploads, canary, count, seed)
        watched = [Path(places["data"]), Path(places["upload"]), Path(places["other"]), Path(elsewhere)]
        command = acts.child(
            "from rightrank.models.checkpoint import work\nfrom tests.hostile.mutated import do\nwork.do = do"
        )
        patch.setattr(readers, "COMMAND", command)
        before = dict(state_of(watched))
        first = 0
        while first < count:
            out = Path(places["out"]) / str(first)
            own.make_ready()
            assert own._server is not None
            server = own._server.pid
            try:
                sandbox.prepare(uploads, out, architecture={"first": first}, limits=LIMITS, readers=own)
            except RightRankError as error:
                found.ended.append(error.detail)
            lines = (out / "log").read_text().splitlines()
            found.outcomes.update(lines[1::2])
            first += (len(lines) + 1) // 2
            found.changed += [f"process {each} is left" for each in session(server) if each != server]
        after = dict(state_of(watched))
        found.changed += sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        if os.waitpid(places["victim"], os.WNOHANG)[0]:
            found.changed.append("the other process has ended")
    return found


def state_of(places: list[Path]) -> Iterator[tuple[str, Any]]:
    """Every file there, with what it holds and when it was changed."""
    for place in places:
        for path in [place, *sorted(place.rglob("*"))]:
            about = path.lstat()
            held = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""
            yield str(path), (about.st_mode, about.st_mtime_ns, about.st_uid, about.st_nlink, held)


def session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[3]) == leader:
                found.append(int(entry.name))
    return found


if __name__ == "__main__":
    numbers = [*map(int, sys.argv[1:]), 1000, 0]
    result = run(numbers[0], numbers[1] if len(sys.argv) > 2 else 0)
    print(
        json.dumps({"outcomes": dict(result.outcomes.most_common()), "ended": result.ended, "changed": result.changed})
    )
    sys.exit(bool(result.changed))
