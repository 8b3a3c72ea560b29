"""A measure of one's own: a script that is given a file and prints its number.

The last line that it prints is a number, or a JSON object with `value` and, as far as they are known, `metric`, `n`
(samples), `low` and `high` (the 95 % interval) and `higher_is_better`.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rightrank.service.client.http import ClientError

# Bytes of what a script prints that are kept for its last line.
KEPT = 64 * 1024
KNOWN = ("metric", "value", "n", "low", "high", "higher_is_better")
# As the service has it.
METRIC = re.compile(r"[a-z][a-z0-9._-]{0,31}")
HOW = (
    'The last line must be a number, or JSON such as {"metric": "wer", "value": 0.083, "n": 2000, '
    '"higher_is_better": false}.'
)


class ScriptError(ClientError):
    """The script did not run to its end, or what it printed last is no number."""


def own_python() -> str:
    """The Python that the user's shell would run, where what a script imports is; else the one that runs this."""
    return shutil.which("python") or shutil.which("python3") or sys.executable


def run(python: str, script: Path, file: Path, show: Callable[[str], object]) -> dict[str, Any]:
    """Runs `python script file` with the rights and in the folder of who calls, without the service's key, and passes
    on what it prints to `show`; what it measured: `value`, and of the other `KNOWN` those that it said. Raises
    `ScriptError`."""
    environment = {key: value for key, value in os.environ.items() if key != "RIGHTRANK_KEY"}
    try:
        process = subprocess.Popen([python, str(script), str(file)], stdout=subprocess.PIPE, env=environment)
    except OSError as error:
        raise ScriptError(f"{python} cannot be run: {error.strerror}. Name another with --python.") from error
    assert process.stdout is not None
    tail = b""
    try:
        while piece := os.read(process.stdout.fileno(), KEPT):
            show(piece.decode(errors="replace"))
            tail = (tail + piece)[-KEPT:]
        status = process.wait()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    if status:
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        raise ScriptError(f"{script} {how}; nothing is reported.")
    return number_in(tail.decode(errors="replace"))


def number_in(printed: str) -> dict[str, Any]:
    """What the last line says that is not empty. Raises `ScriptError`."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    if not lines:
        raise ScriptError(f"The script printed nothing. {HOW}")
    said = f"The script's last line is {lines[-1][:200]!r}"
    try:
        found = json.loads(lines[-1], parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ScriptError(f"{said}, which is no number. {HOW}") from error
    number: dict[str, Any] = found if isinstance(found, dict) else {"value": found}
    if "value" not in number:
        raise ScriptError(f"{said}, which has no `value`. {HOW}")
    if unknown := sorted(set(number) - set(KNOWN)):
        raise ScriptError(f"{said}, and {unknown[0]!r} is none of {', '.join(KNOWN)}.")
    for name in ("value", "low", "high"):
        if name in number and (name == "value" or number[name] is not None):
            number[name] = _finite(number[name], f"{said}, whose {name}")
    return {name: value for name, value in number.items() if value is not None}


def named(number: dict[str, Any], script: Path, metric: str | None, higher_is_better: bool | None) -> dict[str, Any]:
    """The number with its metric, and which way it goes, from the command where the script does not say: the metric is
    called as the script is where neither does. Raises `ScriptError` where they say different things."""
    for name, given in (("metric", metric), ("higher_is_better", higher_is_better)):
        if given is not None and number.setdefault(name, given) != given:
            raise ScriptError(f"The script says that its {name} is {number[name]!r}, and the command {given!r}.")
    number.setdefault("metric", script.stem)
    if not isinstance(number["metric"], str) or not METRIC.fullmatch(number["metric"]):
        likely = re.sub(r"[^a-z0-9._-]+", "-", str(number["metric"]).lower()).lstrip("-._0123456789")[:32]
        raise ScriptError(
            "A metric is called by up to 32 small letters, digits, dots, dashes and underscores, a letter first, and "
            f"not {str(number['metric'])[:100]!r}. Say another: --metric {likely or 'wer'}, or `metric` in the "
            f"script's JSON. What it measured is {number['value']!r}."
        )
    return number


def _finite(value: Any, what: str) -> float:
    try:
        found = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        found = math.inf
    if found is None:
        raise ScriptError(f"{what} is no number. {HOW}")
    if not math.isfinite(found):
        raise ScriptError(f"{what} is not finite. Nothing is reported.")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")
