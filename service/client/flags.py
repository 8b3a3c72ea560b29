"""The API's fields as the command's flags.

A problem names fields in backticks, `evaluation` or `effort=refit`, and says how curl sends a file or asks for what is
there. Whoever used the command has typed flags: what it prints of a problem names these, and its own commands. No
sentence is written twice.
"""

from __future__ import annotations

import re

FLAGS = frozenset(
    ("architecture", "calibration", "card", "effort", "evaluation", "name")
    + ("budget", "confidence", "max_bytes", "max_error", "max_macs", "max_params", "min_accuracy", "of")
    + ("format", "precision", "ready")
)
OPTIONS = frozenset(("budgets", "criterion", "formats", "metric", "tune_seconds", "tune_steps"))
# What files of a format are called. What is not here the service may have all the same.
SUFFIXES = {"torchscript": ".pt", "onnx": ".onnx", "pt2": ".pt2", "executorch": ".pte"}

_FIELD = re.compile(r"`(\w+)(?:=([^`]*))?`")
_CURL = re.compile(r"curl -F (\w+)=@(\S+) …")
_ASKED = re.compile(r"GET /(models|names)\b(?:/([\w.@-]*\w))?")


def spoken(text: str) -> str:
    """A problem's words as the command says them."""
    return _ASKED.sub(_command, _FIELD.sub(_flag, _CURL.sub(r"`\1=\2`", text)))


def _command(match: re.Match[str]) -> str:
    kind, one = match[1], match[2]
    if one is None:
        return "rightrank models"
    return f"rightrank {'show' if kind == 'models' else 'alias'} {one}"


def _flag(match: re.Match[str]) -> str:
    field, value = match[1], match[2]
    if field in OPTIONS:
        return f"--option {field}={value or '…'}"
    if field not in FLAGS:
        return match[0]
    flag = f"--{field.replace('_', '-')}"
    return f"{flag} {value}" if value and field != "ready" else flag
