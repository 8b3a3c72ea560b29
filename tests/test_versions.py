"""The floors of `pyproject.toml` are those that are tested, and the lock has all that is installed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rightrank.models.emit.onnx.versions import COMMON, FOUR_BITS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = [
    Requirement(line) for line in (*PROJECT["dependencies"], *(line for group in EXTRAS.values() for line in group))
]
# What has an environment of its own, of this very version (`make test-executorch`).
APART = "executorch"
NAMED = {canonicalize_name(each.name): each for each in REQUIRED if each.name not in ("rightrank", APART)}
# Which build of torch fits is the machine's matter, and the Makefile names it.
TORCH = "torch"


def pinned(file: str) -> dict[str, str]:
    """Every package of a file of pins, with its version."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    found = [re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?==([\w.!+]+)", line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    return {str(canonicalize_name(match[1])): match[2] for match in found if match}


def test_the_lowest_versions_that_are_tested_are_those_that_are_named() -> None:
    lowest = pinned("tests/lowest.txt")
    assert lowest.keys() == NAMED.keys()
    for name, requirement in NAMED.items():
        assert requirement.specifier.contains(lowest[name])
        (specifier,) = requirement.specifier
        floor = specifier.version.removesuffix(".*")
        # Of torch there is no CPU build of the lowest version.
        assert name == TORCH or f"{lowest[name]}.".startswith(f"{floor}."), name


def test_the_lock_has_a_version_of_everything_that_is_required() -> None:
    lock = pinned("requirements.lock")
    assert NAMED.keys() - lock.keys() == {TORCH}
    assert all(NAMED[name].specifier.contains(version) for name, version in lock.items() if name in NAMED)


def test_what_has_an_environment_of_its_own_is_named_to_the_version() -> None:
    (apart,) = (each for each in REQUIRED if each.name == APART)
    (specifier,) = apart.specifier
    assert specifier.operator == "==" and APART not in pinned("requirements.lock")


def test_what_is_installed_is_what_is_locked() -> None:
    for file in ("Makefile", "docker/Dockerfile"):
        assert "--constraint requirements.lock" in (ROOT / file).read_text()


def test_the_least_runtime_that_files_are_tried_in_is_the_one_that_is_said() -> None:
    for versions, name in ((COMMON, "onnxruntime.txt"), (FOUR_BITS, "onnxruntime-int4.txt")):
        assert f"onnxruntime=={versions.runtime}.0\n" in (ROOT / "tests" / "onnx" / name).read_text()
        assert f"build/onnx-files/{versions.runtime}\n" in (ROOT / "Makefile").read_text()
    said = f"| onnxruntime | {COMMON.runtime} or later; for `int4` {FOUR_BITS.runtime} |"
    assert said in (ROOT / "docs" / "onnx.md").read_text()
