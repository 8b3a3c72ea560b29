"""Keeps every ONNX file that the tests open, with what it was first given and what onnxruntime made of that.

    python -m tests.onnx.kept FOLDER

Runs the tests of the format meanwhile; ends with their exit status. `read.py` gives the files to other runtimes; those
with tensors of four bits, which want later ones, lie in a folder of their own.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime
import pytest

from rightrank.models.emit.onnx import versions

TESTS = ("tests/models/emit/onnx", "tests/models/assemble/test_integers.py", "tests/service/api/test_formats.py")


def keeping(folder: Path) -> type:
    """onnxruntime's session, which keeps the file and its first run in `folder`."""

    class Keeping(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, file: str | bytes, *arguments: Any, **named: Any) -> None:
            self._bytes = file if isinstance(file, bytes) else Path(file).read_bytes()
            super().__init__(file, *arguments, **named)

        def run(self, wanted: Sequence[str] | None, given: Mapping[str, Any], *more: Any) -> Any:
            found = super().run(wanted, given, *more)
            least = versions.FOUR_BITS if self._bytes[1] == versions.FOUR_BITS.layout else versions.COMMON
            path = folder / least.runtime / hashlib.sha256(self._bytes).hexdigest()[:24]
            if not path.with_suffix(".onnx").exists():
                names = wanted or [each.name for each in self.get_outputs()]
                outputs = {f"output:{name}": each for name, each in zip(names, found, strict=True)}
                np.savez(path.with_suffix(".npz"), **{f"input:{name}": each for name, each in given.items()}, **outputs)
                path.with_suffix(".onnx").write_bytes(self._bytes)
            return found

    return Keeping


def main() -> int:
    folder = Path(sys.argv[1])
    for least in (versions.COMMON, versions.FOUR_BITS):
        (folder / least.runtime).mkdir(parents=True)
    with mock.patch.object(onnxruntime, "InferenceSession", keeping(folder)):
        return pytest.main(["-q", "-p", "no:cacheprovider", *TESTS])


if __name__ == "__main__":
    sys.exit(main())
