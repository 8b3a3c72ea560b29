"""The child of `sandbox.prepare`: a request on standard input, one line of JSON on standard output."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from rightrank.models.checkpoint.confine import confine
from rightrank.models.checkpoint.limits import MIB
from rightrank.models.checkpoint.work import do
from rightrank.models.errors import RightRankError


def main() -> None:
    request = json.load(sys.stdin)
    # Whatever a library prints may not mix with the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    confine(request["limits"]["seconds"], request["limits"]["memory"])
    json.dump(_answer(request), answer)
    answer.flush()
    # Skips the destructors of half-built objects, which could still fail.
    os._exit(0)


def _answer(request: dict[str, Any]) -> dict[str, str]:
    try:
        do(request)
    except RightRankError as error:
        return {"kind": error.kind, "detail": error.detail, "hint": error.hint}
    except Exception as error:
        return _unexpected(error, request["limits"]["memory"])
    return {"kind": "done"}


def _unexpected(error: Exception, memory: int) -> dict[str, str]:
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
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


if __name__ == "__main__":
    main()
