"""The child of `sandbox.prepare`: a request on standard input, one line of JSON on standard output."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_DIE_WITH_PARENT, _NOT_DUMPABLE, _NO_NEW_PRIVILEGES = 1, 4, 38
# Set before torch is imported, so that importing counts; it takes a few seconds.
_IMPORT_SECONDS = 30


def main() -> None:
    request = json.load(sys.stdin)
    limits = request["limits"]
    _give_up(limits["seconds"] + _IMPORT_SECONDS, limits["memory"])
    # Whatever a library prints may not mix with the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    json.dump(_answer(request, limits), answer)
    answer.flush()
    # Skips destructors of half-built objects, which could still fail.
    os._exit(0)


def _give_up(seconds: int, file_bytes: int) -> None:
    """Everything that reading a file does not need."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    # Best effort: not every kernel lets an ordinary user have a network of its own (without any device).
    libc.unshare(_NEW_USER | _NEW_NETWORK)
    libc.prctl(_NOT_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def _answer(request: dict[str, Any], limits: dict[str, Any]) -> dict[str, str]:
    from models.checkpoint.work import do
    from models.errors import RightRankError

    _limit_memory(limits["memory"])
    try:
        do(request)
    except RightRankError as error:
        return {"kind": error.kind, "detail": error.detail, "hint": error.hint}
    except Exception as error:
        return _unexpected(error, limits["memory"])
    return {"kind": "done"}


def _limit_memory(memory: int) -> None:
    """On top of the address space that torch itself has taken; and no further process or thread."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _unexpected(error: Exception, memory: int) -> dict[str, str]:
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return {
            "kind": "checkpoint-unsafe",
            "detail": f"Reading the file takes more than {memory >> 20} MiB of memory.",
            "hint": "The operator can raise the limit.",
        }
    return {
        "kind": "checkpoint-malformed",
        "detail": "The file could not be read.",
        "hint": "If it loads in torch, please report it with the model's code.",
        "trace": "".join(traceback.format_exception(error))[-8000:],
    }


main()
