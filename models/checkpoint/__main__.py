"""The child of `readers`: a request on standard input, two lines of JSON on standard output.

It is started with its parent's id and may wait long for the request, which never comes where no upload does. The first
line says which layers of confinement hold, before a file is opened; the second what came of the reading.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rightrank.models.checkpoint.limits import FILES, LOST, MIB
from rightrank.models.confinement import layers, parent
from rightrank.models.errors import RightRankError

# What fails on any upload alike: a full or broken disk.
_NOT_ITS_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def main() -> None:
    parent.end_with(int(sys.argv[1]))
    asked, answer = _channels()
    # Left to itself, Python tries to write to one folder after the other, and on a full disk says that there is none.
    scratch = tempfile.tempdir = os.environ["TMPDIR"]
    # Late: torch takes seconds, and before them the parent may be gone.
    from rightrank.models.checkpoint import work

    work.warm_up()
    with open(asked, "rb") as file:
        asking = file.read()
    if asking:
        _answer(json.loads(asking), Path(scratch), answer, work.do)
    # Skips the destructors of half-built objects, which could still fail.
    os._exit(0)


def _answer(request: dict[str, Any], scratch: Path, answer: int, do: Callable[[dict[str, Any]], None]) -> None:
    held = layers.apply(
        [Path(request[name]) for name in FILES if request[name] is not None],
        [Path(request["out"]), scratch],
        request["limits"]["seconds"],
        request["limits"]["memory"],
    )
    _say(answer, held)
    if not (request["required"] and layers.missing(held)):
        _say(answer, _outcome(do, request))


def _channels() -> tuple[int, int]:
    """Descriptors for the request and the answer. Whatever a library prints may not mix with it, and nobody else is to
    be heard."""
    asked, answer, nowhere = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return asked, answer


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
