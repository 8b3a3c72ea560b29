"""The fork server of `readers`, and its copies, the readers.

It is started with its parent's id and the number of the socket that it is told through. Of each upload it gets the
descriptors of two files, and tells the exit status of the copy that read it. A copy finds its request in the first,
and writes two lines of JSON into the second: which layers of confinement hold, before it opens a file, and what came
of the reading.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rightrank.models.checkpoint.limits import FILES, LOST, MIB
from rightrank.models.checkpoint.readers import FOLDERS, STATUS_BYTES
from rightrank.models.confinement import layers, parent
from rightrank.models.errors import RightRankError

# What fails on any upload alike: a full or broken disk.
_NOT_ITS_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def main() -> None:
    parent.end_with(int(sys.argv[1]))
    told = socket.socket(fileno=int(sys.argv[2]))
    # Left to itself, Python tries to write to one folder after the other, and on a full disk says that there is none.
    tempfile.tempdir = os.environ["TMPDIR"]
    # Late: torch takes seconds, and before them the parent may be gone.
    from rightrank.models.checkpoint import work

    work.warm_up()
    this = os.getpid()
    while (given := socket.recv_fds(told, 1, 2))[0]:
        asked, answer = given[1]
        if not (reader := os.fork()):
            parent.end_with(this)
            told.close()
            _read(asked, answer, work.do)
            # Skips the destructors of half-built objects, which could still fail.
            os._exit(0)
        os.close(asked)
        os.close(answer)
        code = os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1])
        told.sendall(code.to_bytes(STATUS_BYTES, signed=True))
    os._exit(0)


def _read(asked: int, answer: int, do: Callable[[dict[str, Any]], None]) -> None:
    with open(asked, "rb") as file:
        request = json.loads(file.read())
    scratch = tempfile.tempdir = request["scratch"]
    os.environ.update(dict.fromkeys(FOLDERS, scratch))
    held = layers.apply(
        [Path(request[name]) for name in FILES if request[name] is not None],
        [Path(request["out"]), Path(scratch)],
        request["limits"]["seconds"],
        request["limits"]["memory"],
    )
    _say(answer, held)
    if not (request["required"] and layers.missing(held)):
        _say(answer, _outcome(do, request))


def _say(answer: int, line: Any) -> None:
    data = json.dumps(line).encode() + b"\n"
    try:
        while data:
            data = data[os.write(answer, data) :]
    except OSError:
        os._exit(LOST)


def _outcome(do: Callable[[dict[str, Any]], None], request: dict[str, Any]) -> dict[str, str]:
    try:
        do(request)
    except Exception as error:
        return _failure(error, request["limits"]["memory"])
    return {"kind": "done"}


def _failure(error: Exception, memory: int) -> dict[str, str]:
    codes = {each.errno for each in _chain(error) if isinstance(each, OSError)}
    # Of safetensors' own errors only the words tell.
    said = [os.strerror(code) for code in _NOT_ITS_FAULT if code in codes or os.strerror(code) in str(error)]
    if said:
        return {"kind": "lost", "detail": f"The disk could not be used: {said[0]}."}
    if isinstance(error, RightRankError):
        return {"kind": error.kind, "detail": error.detail, "hint": error.hint}
    if isinstance(error, MemoryError) or errno.EFBIG in codes or "allocate memory" in str(error):
        return {
            "kind": "checkpoint-unsafe",
            "detail": f"Reading the file takes more than {memory // MIB} MiB of memory.",
            "hint": "The operator can raise the limit.",
        }
    return {
        "kind": "checkpoint-malformed",
        "detail": "The file could not be read.",
        "hint": "If it loads in torch, please report it with the model's code.",
        "trace": "".join(traceback.format_exception(error))[-8000:],
    }


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error with those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


if __name__ == "__main__":
    main()
