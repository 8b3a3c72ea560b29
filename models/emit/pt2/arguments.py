"""Arguments of calls as torch.export writes them: an object with one member, whose name says of what kind it is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

from rightrank.models.program.dtypes import DTYPES
from rightrank.models.program.graph import Argument, Constant, Ref

# In torch/_export/serde/schema.py: MemoryFormat and Layout.
MEMORY_FORMATS = {"contiguous_format": 1, "channels_last": 2, "channels_last_3d": 3, "preserve_format": 4}
STRIDED = 7
CPU = '{"type":"cpu","index":null}'


def argument(value: Argument, names: Mapping[str, str], kind: Callable[[str], str]) -> str:
    """An argument's JSON, by what its values are called there. `kind` says of a value whether it is a number ("int",
    "float", "bool") or a tensor ("")."""

    def single(value: Argument) -> tuple[str, str]:
        """The member's name, and its content."""
        if isinstance(value, Ref):
            name = names[value.name]
            if number := kind(value.name):
                return f"sym_{number}", f'{{"as_name":"{name}"}}'
            return "tensor", f'{{"name":"{name}"}}'
        if value is None:
            return "none", "true"
        if isinstance(value, bool):
            return "bool", str(value).lower()
        if isinstance(value, int):
            return "int", str(value)
        if isinstance(value, float):
            return "float", _float(value)
        if isinstance(value, str):
            return "string", json.dumps(value)
        if isinstance(value, Constant):
            return _constant(value)
        raise ValueError(f"no call may pass {value!r}")

    if not isinstance(value, tuple):
        member, content = single(value)
        return f'{{"as_{member}":{content}}}'
    several = [single(each) for each in value]
    members = {member for member, _ in several}
    if members <= {"int", "sym_int"} or members <= {"float", "sym_float", "int"} or members <= {"bool", "sym_bool"}:
        number = "float" if "float" in members or "sym_float" in members else "bool" if "bool" in members else "int"
        if f"sym_{number}" in members:
            items = [
                content if member.startswith("sym_") else f'{{"as_{number}":{content}}}' for member, content in several
            ]
            return f'{{"as_sym_{number}s":[{",".join(items)}]}}'
        return f'{{"as_{number}s":[{",".join(content for _, content in several)}]}}'
    if members == {"tensor"}:
        return f'{{"as_tensors":[{",".join(content for _, content in several)}]}}'
    if members <= {"tensor", "none"}:
        return f'{{"as_optional_tensors":[{",".join(f"{{{chr(34)}as_{m}{chr(34)}:{c}}}" for m, c in several)}]}}'
    raise ValueError(f"no call may pass {value!r}")


def _float(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'


def _constant(value: Constant) -> tuple[str, str]:
    if value.type == "dtype":
        return "scalar_type", str(DTYPES[value.value].schema)
    if value.type == "memory_format":
        return "memory_format", str(MEMORY_FORMATS[value.value])
    if value.type == "layout":
        return "layout", str(STRIDED)
    return "device", CPU
