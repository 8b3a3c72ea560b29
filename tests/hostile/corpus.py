"""Files that want to hurt the service, made by code so that each says what it does.

Every payload that could run would create the canary file; a test asserts that it does not exist.
`checkpoints(folder, canary)` and `data(folder, canary)` yield the cases with the error each has to get.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rightrank.models.errors import (
    DataError,
    MalformedCheckpoint,
    RightRankError,
    UnsafeCheckpoint,
    UnsupportedCheckpoint,
)

Entries = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    name: str
    path: Path
    error: type[RightRankError]


class Touch:
    """Unpickling this creates a file."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.command,)


def honest() -> bytes:
    """A small exported convnet, from which most cases are made by one change."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(net, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=(batch,))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def entries(archive: bytes) -> Entries:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def pack(found: Entries, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in found.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return buffer.getvalue()


GRAPH = "archive/models/model.json"
WEIGHTS = "archive/data/weights/model_weights_config.json"
CONSTANTS = "archive/data/constants/model_constants_config.json"


def edited(base: Entries, name: str, edit: Callable[[Any], Any]) -> bytes:
    """The archive with one JSON entry changed by `edit`, in place or by what it returns."""
    data = json.loads(base[name])
    result = edit(data)
    return pack({**base, name: json.dumps(data if result is None else result).encode()})


OLD_GRAPH, OLD_WEIGHTS = "archive/models/model.json", "archive/data/weights/model.pt"
OLD_CONSTANTS, OLD_EXAMPLES = "archive/data/constants/model.pt", "archive/data/sample_inputs/model.pt"
# The same of torch 2.6 and 2.7, which have no folder around them.
FLAT = {
    OLD_GRAPH: "serialized_exported_program.json",
    OLD_WEIGHTS: "serialized_state_dict.pt",
    OLD_CONSTANTS: "serialized_constants.pt",
    OLD_EXAMPLES: "serialized_example_inputs.pt",
}


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def older(base: bytes, flat: bool, **changes: bytes) -> Entries:
    """The same program in the layout of torch 2.8, or 2.7; `weights`, `constants` and `examples` in place of its."""
    exported = torch.export.load(io.BytesIO(base))
    found = {
        OLD_GRAPH: entries(base)[GRAPH],
        OLD_WEIGHTS: changes.get("weights", saved(exported.state_dict)),
        OLD_CONSTANTS: changes.get("constants", saved(exported.constants)),
        OLD_EXAMPLES: changes.get("examples", saved(exported.example_inputs)),
    }
    if flat:
        return {**{FLAT[name]: data for name, data in found.items()}, "version": b"8.7"}
    return {**found, "archive/archive_format": b"pt2", "archive/archive_version": b"0", "archive/byteorder": b"little"}


def checkpoints(folder: Path, canary: Path) -> Iterator[Case]:
    base = honest()
    sources = (_pickles, _older, _graphs, _sizes, _archives, _cuts, _states)
    for source in sources:
        for name, data, error in source(base, canary):
            path = folder / f"{name.replace(' ', '_')}.bin"
            path.write_bytes(data)
            yield Case(name, path, error)


Raw = tuple[str, bytes, type[RightRankError]]


def _pickles(base: bytes, canary: Path) -> Iterator[Raw]:
    """Pickles in every place where an exported program can carry one."""
    found = entries(base)
    evil = io.BytesIO()
    torch.save(Touch(canary), evil)
    payload = evil.getvalue()

    pickled_payload = {"is_param": False, "use_pickle": True, "tensor_meta": None}

    def pickled(config: Any) -> None:
        config["config"]["0.weight"]["use_pickle"] = True

    weights = {**found, "archive/data/weights/weight_0": payload}
    yield "pickled weight", edited(weights, WEIGHTS, pickled), UnsafeCheckpoint

    def custom(config: Any) -> None:
        config["config"]["thing"] = {**pickled_payload, "path_name": "custom_obj_0"}

    yield (
        "custom object",
        edited({**found, "archive/data/constants/custom_obj_0": payload}, CONSTANTS, custom),
        UnsafeCheckpoint,
    )

    def constant(config: Any) -> None:
        config["config"]["k"] = {**pickled_payload, "path_name": "tensor_0"}

    yield (
        "pickled constant",
        edited({**found, "archive/data/constants/tensor_0": payload}, CONSTANTS, constant),
        UnsafeCheckpoint,
    )
    for name in (
        "data/weights/model.pt",
        "data/constants/model.pt",
        "data/constants/opaque_obj_0",
        "data/aotinductor/model/model.so",
        "data.pkl",
        "executorch/model.pte",
        "data/weights/weight_0.pkl",
        "code/__torch__.py",
        "xl_model_weights/model_param_config.json",
    ):
        yield (
            f"extra record {name.replace('/', ' ')}",
            pack({**found, f"archive/{name}": payload}),
            UnsafeCheckpoint,
        )
    yield "undescribed weight", pack({**found, "archive/data/weights/weight_99": payload}), UnsafeCheckpoint

    def elsewhere(config: Any) -> None:
        config["config"]["0.weight"]["path_name"] = "../sample_inputs/model.pt"

    yield "weight from another folder", edited(found, WEIGHTS, elsewhere), UnsafeCheckpoint


def _older(base: bytes, canary: Path) -> Iterator[Raw]:
    """What the dictionaries of tensors may carry in which torch before 2.9 kept weights and constants."""
    evil = saved({"0.weight": Touch(canary)})
    for flat, torch_ in ((False, "torch 2.8"), (True, "torch 2.7")):
        for what in ("weights", "constants"):
            yield f"{what} of {torch_} with code", pack(older(base, flat, **{what: evil})), UnsafeCheckpoint
        found = older(base, flat)
        weights, constants = (FLAT[name] if flat else name for name in (OLD_WEIGHTS, OLD_CONSTANTS))
        for name, data, error in (
            ("a module", saved({"0.weight": nn.Linear(2, 2)}), UnsafeCheckpoint),
            ("a list", saved([torch.ones(2)]), UnsupportedCheckpoint),
            ("a number", saved({"0.weight": 1.0}), UnsupportedCheckpoint),
            ("a stretched tensor", saved({"0.weight": torch.ones(1).expand(1 << 20, 1 << 20)}), UnsafeCheckpoint),
            ("a name with code", saved({"__import__('os')": torch.ones(2)}), MalformedCheckpoint),
            ("a bare pickle", pickle.dumps({"0.weight": 1}, 2), MalformedCheckpoint),
            ("no archive", b"PK" + bytes(100), MalformedCheckpoint),
            ("an archive that is compressed", pack(entries(found[weights]), zipfile.ZIP_DEFLATED), UnsafeCheckpoint),
            ("an archive cut short", found[weights][:-30], MalformedCheckpoint),
            ("no tensors", saved({}), MalformedCheckpoint),
            ("no bytes", b"", MalformedCheckpoint),
        ):
            yield f"{name} for weights of {torch_}", pack({**found, weights: data}), error
        doubled = {**found, constants: found[weights]}
        yield f"weights that are constants too of {torch_}", pack(doubled), MalformedCheckpoint
        without = {name: data for name, data in found.items() if name != constants}
        yield f"no constants of {torch_}", pack(without), MalformedCheckpoint
        top = "" if flat else "archive/"
        for name in ("data/weights/weight_0", "data/aotinductor/model/model.so", "data.pkl", "code/x.py"):
            yield f"{name.replace('/', ' ')} in {torch_}", pack({**found, f"{top}{name}": evil}), UnsafeCheckpoint
        other = "models/model.json" if flat else "archive/serialized_exported_program.json"
        yield f"two layouts in {torch_}", pack({**found, other: entries(base)[GRAPH]}), UnsupportedCheckpoint


def opened_never(folder: Path, canary: Path) -> list[Path]:
    """Honest programs with a pickle where torch puts example inputs, or where a publisher puts files of his own:
    these are read, and the pickle is not."""
    found = entries(honest())
    evil = io.BytesIO()
    torch.save(Touch(canary), evil)
    paths = []
    for name in ("archive/data/sample_inputs/model.pt", "archive/extra/notes.pkl"):
        path = folder / f"{len(paths)}.pt2"
        path.write_bytes(pack({**found, name: evil.getvalue()}))
        paths.append(path)
    return paths


def _graphs(base: bytes, canary: Path) -> Iterator[Raw]:
    """Graphs that run code, or that are no graphs."""
    found = entries(base)
    code = f"__import__('os').system('touch {canary}')"

    def graph(edit: Callable[[Any], Any]) -> bytes:
        def within(program: Any) -> None:
            edit(program["graph_module"]["graph"])

        return edited(found, GRAPH, within)

    def size(expression: str) -> bytes:
        def edit(graph: Any) -> None:
            graph["tensor_values"]["input"]["sizes"][0]["as_expr"]["expr_str"] = expression

        return graph(edit)

    for name, expression in {
        "call": code,
        "attribute": "Symbol('s0').__class__",
        "lambda": "(lambda: 0)()",
        "list": "[0][0]",
        "string": f"Symbol('{code!r}')",
        "nested": "(" * 10_000 + "1" + ")" * 10_000,
        "empty": "",
    }.items():
        yield f"expression {name}", size(expression), UnsafeCheckpoint
    for name, expression in {"keyword": "Symbol('s0', positive=exit)", "function": "exec('1')"}.items():
        yield f"expression {name}", size(expression), UnsupportedCheckpoint

    def ranges(program: Any) -> None:
        program["range_constraints"] = {code: {"min_val": 0, "max_val": 1}}

    yield "range constraint with code", edited(found, GRAPH, ranges), UnsafeCheckpoint

    def symbol(graph: Any) -> None:
        graph["sym_int_values"]["n"] = {"as_expr": {"expr_str": code, "hint": None}}

    yield "number with code", graph(symbol), UnsafeCheckpoint

    def target(op: str) -> Callable[[Any], None]:
        return lambda graph: graph["nodes"][0].update(target=op)

    for op in (
        "torch.ops.aten.from_file.default",
        "torch.ops.higher_order.cond",
        "torch.ops.mylib.custom.default",
        "os.system",
        "builtins.eval",
        "torch.load",
        "_operator.attrgetter",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.as_strided.default",
        "torch.ops.aten.rand.default",
        "torch.ops.aten.conv2d",
        "aten.conv2d.default",
        code,
    ):
        yield f"operator {op[:40].replace('/', ' ')}", graph(target(op)), UnsupportedCheckpoint

    def argument(value: Any) -> Callable[[Any], None]:
        return lambda graph: graph["nodes"][0]["inputs"][0].update(arg=value)

    for kind, value in {
        "as_graph": {"name": "g", "graph": {}},
        "as_custom_obj": {"name": "x", "class_fqn": "y"},
        "as_operator": "os.system",
        "as_complex": {"real": 0.0, "imag": 1.0},
        "as_string_to_argument": {},
    }.items():
        yield f"argument {kind}", graph(argument({kind: value})), UnsupportedCheckpoint
    for name, value in {
        "union of two": {"as_int": 1, "as_float": 1.0},
        "undefined": {"as_tensor": {"name": "nowhere"}},
        "list for tensor": {"as_ints": [1, 2]},
        "bool for int": {"as_int": True},
        "list for dtype": {"as_scalar_type": [7]},
        "object for memory format": {"as_memory_format": {}},
        "number": 5,
    }.items():
        yield f"argument {name}", graph(argument(value)), MalformedCheckpoint
    yield "string argument with code", graph(argument({"as_string": code})), UnsafeCheckpoint

    def message(value: Any) -> Callable[[Any], None]:
        inputs = [{"name": "self", "arg": {"as_bool": True}}, {"name": "assert_msg", "arg": value}]
        call = {"target": "torch.ops.aten._assert_scalar.default", "inputs": inputs, "outputs": [], "metadata": {}}
        return lambda graph: graph["nodes"].insert(0, call)

    yield "message that is a number", graph(message({"as_int": 1})), MalformedCheckpoint
    yield "message that is a graph", graph(message({"as_graph": {"name": "g", "graph": {}}})), MalformedCheckpoint

    def named(name: str) -> Callable[[Any], None]:
        return lambda graph: graph["nodes"][0]["outputs"][0]["as_tensor"].update(name=name)

    yield "value name with code", graph(named("x; import os")), UnsafeCheckpoint
    yield "value defined twice", graph(named("p_0_weight")), MalformedCheckpoint

    def cycle(graph: Any) -> None:
        last = graph["nodes"][-1]["outputs"][0]["as_tensor"]["name"]
        graph["nodes"][0]["inputs"][0]["arg"] = {"as_tensor": {"name": last}}

    yield "cycle of calls", graph(cycle), MalformedCheckpoint

    def repeated(graph: Any) -> None:
        graph["nodes"][0]["inputs"].append(copy.deepcopy(graph["nodes"][0]["inputs"][0]))

    yield "argument passed twice", graph(repeated), MalformedCheckpoint

    def unknown(graph: Any) -> None:
        graph["nodes"][0]["inputs"][0]["name"] = "out"

    yield "argument unknown", graph(unknown), MalformedCheckpoint
    yield "call without arguments", graph(lambda g: g["nodes"][0].update(inputs=[])), MalformedCheckpoint
    yield "calls that do not fit", graph(lambda g: g["nodes"].pop(0)), MalformedCheckpoint
    yield "no calls", graph(lambda g: g.update(nodes=None)), MalformedCheckpoint

    def spec(kind: str, value: Any) -> bytes:
        def edit(program: Any) -> None:
            program["graph_module"]["signature"]["input_specs"][0] = {kind: value}

        return edited(found, GRAPH, edit)

    yield (
        "custom object input",
        spec("custom_obj", {"arg": {}, "custom_obj_name": "x"}),
        UnsupportedCheckpoint,
    )
    yield "token input", spec("token", {"arg": {"name": "t"}}), UnsupportedCheckpoint
    yield (
        "constant input",
        spec("constant_input", {"name": "n", "value": {"as_int": 1}}),
        UnsupportedCheckpoint,
    )
    yield (
        "parameter without data",
        spec("parameter", {"arg": {"name": "p"}, "parameter_name": "nowhere"}),
        MalformedCheckpoint,
    )

    def mutation(program: Any) -> None:
        outputs = program["graph_module"]["signature"]["output_specs"]
        outputs.insert(0, {"buffer_mutation": {"arg": {"name": "relu"}, "buffer_name": "state"}})

    yield "state that changes", edited(found, GRAPH, mutation), UnsupportedCheckpoint
    for name, text in {
        "graph nested deeply": b"[" * 500_000 + b"]" * 500_000,
        "graph with nested objects": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    }.items():
        yield name, pack({**found, GRAPH: text}), UnsafeCheckpoint
    for name, text in {
        "graph with a huge integer": b'{"graph_module": ' + b"9" * 5000 + b"}",
        "graph with a key twice": b'{"graph_module": {}, "graph_module": {}}',
        "graph with NaN": b'{"graph_module": NaN}',
        "graph that is a list": b"[]",
        "graph that is no text": b"\xff\xfe",
        "graph that is empty": b"",
    }.items():
        yield name, pack({**found, GRAPH: text}), MalformedCheckpoint
    nothing = {key: value for key, value in found.items() if key != GRAPH}
    yield "no graph", pack(nothing), UnsupportedCheckpoint
    yield "two graphs", pack({**found, "archive/models/other.json": found[GRAPH]}), UnsupportedCheckpoint
    yield "big endian", pack({**found, "archive/byteorder": b"big"}), UnsupportedCheckpoint
    for name, version, error in (
        ("another schema", {"major": 9, "minor": 1}, UnsupportedCheckpoint),
        ("schema of a boolean", {"major": True, "minor": 1}, MalformedCheckpoint),
        ("schema of a text", {"major": "8", "minor": 1}, MalformedCheckpoint),
        ("schema without a major version", {"minor": 1}, MalformedCheckpoint),
        ("schema that is a list", [8, 1], MalformedCheckpoint),
    ):
        yield name, edited(found, GRAPH, lambda program, v=version: program.update(schema_version=v)), error
    yield "no schema", edited(found, GRAPH, lambda program: program.pop("schema_version") and None), MalformedCheckpoint
    yield "another version", pack({**found, "archive/archive_version": b"9"}), UnsupportedCheckpoint

    def fill(graph: Any) -> None:
        node = {
            "target": "torch.ops.aten.full.default",
            "inputs": [
                {"name": "size", "arg": {"as_ints": [1 << 40]}, "kind": 1},
                {"name": "fill_value", "arg": {"as_float": 0.0}, "kind": 1},
            ],
            "outputs": [{"as_tensor": {"name": "bomb"}}],
            "metadata": {},
        }
        use = {
            "target": "torch.ops.aten.sum.default",
            "inputs": [{"name": "self", "arg": {"as_tensor": {"name": "bomb"}}, "kind": 1}],
            "outputs": [{"as_tensor": {"name": "total"}}],
            "metadata": {},
        }
        last = graph["nodes"][-1]["inputs"]
        last[2]["arg"] = {"as_tensor": {"name": "total"}}
        graph["nodes"][-1:-1] = [node, use]

    yield "call that fills memory", graph(fill), UnsafeCheckpoint


def _sizes(base: bytes, canary: Path) -> Iterator[Raw]:
    """Tensors that are not where, or not what, they are said to be."""
    found = entries(base)

    def meta(**changes: Any) -> bytes:
        return edited(found, WEIGHTS, lambda config: config["config"]["0.weight"]["tensor_meta"].update(changes))

    def sizes(*numbers: int) -> list[dict[str, int]]:
        return [{"as_int": n} for n in numbers]

    yield "giant sizes", meta(sizes=sizes(1 << 30, 1 << 30, 3, 3)), MalformedCheckpoint
    yield (
        "giant sizes without strides",
        meta(sizes=sizes(1 << 20, 1 << 20), strides=sizes(0, 0)),
        UnsafeCheckpoint,
    )
    yield "negative stride", meta(strides=sizes(-27, 9, 3, 1)), MalformedCheckpoint
    yield "giant stride", meta(strides=sizes(1 << 62, 9, 3, 1)), MalformedCheckpoint
    yield "negative offset", meta(storage_offset={"as_int": -1}), MalformedCheckpoint
    yield "offset past the end", meta(storage_offset={"as_int": 1}), MalformedCheckpoint
    yield "negative size", meta(sizes=sizes(-4, 3, 3, 3)), MalformedCheckpoint
    yield "fewer strides than sizes", meta(strides=sizes(1)), MalformedCheckpoint
    yield "many dimensions", meta(sizes=sizes(*[1] * 200), strides=sizes(*[1] * 200)), MalformedCheckpoint
    yield "symbolic weight", meta(sizes=[{"as_expr": {"expr_str": "s0"}}] * 4), MalformedCheckpoint
    yield "integer beyond 64 bits", meta(sizes=sizes(1 << 70)), MalformedCheckpoint
    yield "complex weight", meta(dtype=10), UnsupportedCheckpoint
    yield "unknown dtype", meta(dtype=99), UnsupportedCheckpoint
    yield "sparse weight", meta(layout=1), UnsupportedCheckpoint
    nan = np.frombuffer(found["archive/data/weights/weight_0"], np.float32).copy()
    for value in (np.nan, np.inf, -np.inf):
        nan[5] = value
        changed = {**found, "archive/data/weights/weight_0": nan.tobytes()}
        yield f"weight with {value}", pack(changed), MalformedCheckpoint
    short = found["archive/data/weights/weight_0"][:-4]
    yield "weight cut short", pack({**found, "archive/data/weights/weight_0": short}), MalformedCheckpoint
    yield "weight empty", pack({**found, "archive/data/weights/weight_0": b""}), MalformedCheckpoint


def _archives(base: bytes, canary: Path) -> Iterator[Raw]:
    """Zip files that are bombs, or that point out of themselves."""
    found = entries(base)
    for name in (
        "archive/../../etc/passwd",
        "/etc/passwd",
        "archive/a\\..\\b",
        "archive//x",
        "archive/./x",
        "C:/x",
    ):
        yield f"path {name.replace('/', ' ')}", pack({**found, name: b"x"}), UnsafeCheckpoint
    yield "compressed", pack(found, zipfile.ZIP_DEFLATED), UnsafeCheckpoint
    bomb = {**found, "archive/data/weights/weight_0": b"\0" * (64 << 20)}
    yield "zip bomb", pack(bomb, zipfile.ZIP_DEFLATED), UnsafeCheckpoint
    yield "two entries of one name", _twice(found), UnsafeCheckpoint
    yield "a million entries", _many(1_000_000), UnsafeCheckpoint
    yield "a million entries declared", _declared(base, count=0xFFF0), MalformedCheckpoint
    yield "overlapping entries", _overlapping(), UnsafeCheckpoint
    yield "huge declared size", _resized(base, 0x7FFFFFFF), MalformedCheckpoint
    yield "two directories that disagree", _renamed(base), UnsafeCheckpoint
    yield "encrypted", _flagged(base), UnsafeCheckpoint
    yield "bytes after the end", base + b"#!/bin/sh\n", MalformedCheckpoint
    yield "bytes before the start", b"PK\x03\x04" + b"x" * 96 + base, MalformedCheckpoint
    yield "a comment", _commented(base), MalformedCheckpoint
    yield "flipped bit", _flipped(base, found), MalformedCheckpoint


def _twice(found: Entries) -> bytes:
    """Two entries called weight_0: a second one, weight_Z, is renamed in the bytes, in both of its headers."""
    name = "archive/data/weights/weight_"
    return pack({**found, f"{name}Z": b"x"}).replace(f"{name}Z".encode(), f"{name}0".encode())


def _many(count: int) -> bytes:
    record = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    directory = record * count
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), 4)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 4 + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return b"PK\x03\x04" + directory + end64 + locator + end


def _declared(base: bytes, count: int) -> bytes:
    return base[:-14] + struct.pack("<2H", count, count) + base[-10:]


def _overlapping() -> bytes:
    """Two entries whose data are the same bytes: the quoted-overlap bomb, uncompressed."""
    data = b"x" * 100
    crc = zlib.crc32(data)
    second = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, crc, 100, 100, 3, 0) + b"a/2" + data
    outer_crc = zlib.crc32(second)
    n = len(second)
    first = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, outer_crc, n, n, 3, 0) + b"a/1"
    directory = b""
    for name, checksum, size, offset in ((b"a/1", outer_crc, n, 0), (b"a/2", crc, 100, len(first))):
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, checksum, size, size, 3, 0, 0, 0, 0, 0, offset
        )
        directory += name
    start = n + len(first)
    return first + second + directory + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(directory), start, 0)


def _directory_record(base: bytes, name: str) -> int:
    return base.rindex(name.encode()) - 46


def _resized(base: bytes, size: int) -> bytes:
    at = _directory_record(base, "archive/data/weights/weight_0")
    return base[: at + 20] + struct.pack("<2L", size, size) + base[at + 28 :]


def _renamed(base: bytes) -> bytes:
    at = base.index(b"archive/data/weights/weight_0")
    return base[:at] + b"archive/data/weights/weight_X" + base[at + 29 :]


def _flagged(base: bytes) -> bytes:
    at = _directory_record(base, "archive/data/weights/weight_0")
    return base[: at + 8] + struct.pack("<H", 1) + base[at + 10 :]


def _commented(base: bytes) -> bytes:
    return base[:-2] + struct.pack("<H", 5) + b"hello"


def _flipped(base: bytes, found: Entries) -> bytes:
    at = base.index(found["archive/data/weights/weight_0"])
    return base[:at] + bytes([base[at] ^ 1]) + base[at + 1 :]


def _cuts(base: bytes, canary: Path) -> Iterator[Raw]:
    """What an interrupted upload leaves; and what is no model at all."""
    for share in (0.0005, 0.01, 0.25, 0.5, 0.9, 0.999):
        yield f"cut at {share}", base[: max(4, int(len(base) * share))], MalformedCheckpoint
    yield "cut by one byte", base[:-1], MalformedCheckpoint
    yield "without its start", base[100:], UnsupportedCheckpoint
    yield "empty", b"", MalformedCheckpoint
    yield "one byte", b"P", UnsupportedCheckpoint
    yield "zeros", bytes(10_000), UnsupportedCheckpoint
    yield "random bytes", np.random.default_rng(0).bytes(10_000), UnsupportedCheckpoint
    yield "text", b"import os\n", UnsupportedCheckpoint
    yield "an empty zip", b"PK\x05\x06" + bytes(18), MalformedCheckpoint
    yield "some other zip", pack({"hello.txt": b"hello"}), UnsupportedCheckpoint


ARCHITECTURE = {"name": "mlp", "arguments": {"in_features": 2, "hidden": [], "num_classes": 2}}


def honest_state() -> OrderedDict[str, torch.Tensor]:
    """The weights of ARCHITECTURE."""
    return OrderedDict({"layers.0.weight": torch.ones(2, 2), "layers.0.bias": torch.ones(2)})


class _Persistent(pickle.Pickler):
    """A pickler that writes one string as a persistent id, which torch resolves to a storage."""

    def persistent_id(self, obj: Any) -> Any:
        return ("storage", "os.system", "0", "cpu", 4) if obj == "weights" else None


def _states(base: bytes, canary: Path) -> Iterator[Raw]:
    """State dicts, for which the tests pass an architecture that would fit an honest one."""
    evil = Touch(canary)
    state = honest_state()
    for name, value in {
        "state with code": {"state_dict": state, "callback": evil},
        "bare object": evil,
        "whole module": nn.Linear(2, 2),
        "numpy scalar": {"weight": np.float64(1.0)},
    }.items():
        buffer = io.BytesIO()
        torch.save(value, buffer)
        yield name, buffer.getvalue(), UnsafeCheckpoint
    buffer = io.BytesIO()
    torch.save({"state_dict": state, "x": evil}, buffer, _use_new_zipfile_serialization=False)
    yield "old format with code", buffer.getvalue(), UnsafeCheckpoint
    yield "pickle with code", pickle.dumps(evil), UnsafeCheckpoint
    yield "pickle with code in protocol 0 renamed", pickle.dumps(evil, 2), UnsafeCheckpoint
    yield "pickle without code", pickle.dumps({"weight": [1, 2, 3]}, 2), UnsupportedCheckpoint
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    yield "TorchScript", buffer.getvalue(), UnsupportedCheckpoint
    buffer = io.BytesIO()
    torch.save(state, buffer)
    saved = entries(buffer.getvalue())
    top = next(iter(saved)).partition("/")[0]

    def pickled(data: bytes) -> bytes:
        return pack({**saved, f"{top}/data.pkl": data})

    stream = io.BytesIO()
    _Persistent(stream, 2).dump({"weight": "weights"})
    yield "persistent id of its own", pickled(stream.getvalue()), MalformedCheckpoint
    original = saved[f"{top}/data.pkl"]
    for name, data in {
        "global renamed to os system": original.replace(b"ctorch._utils\n_rebuild_tensor_v2", b"cos\nsystem"),
        "global renamed to a loader": original.replace(b"ctorch._utils\n_rebuild_tensor_v2", b"ctorch\nload"),
        "extension opcode": b"\x80\x02\x82\x01.",
        "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        "instance opcode": b"\x80\x02(ios\nsystem\n.",
        "new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    }.items():
        yield name, pickled(data), UnsafeCheckpoint
    yield "pickle cut", pickled(original[:-20]), MalformedCheckpoint
    yield "pickle without end", pickled(b"\x80\x02}"), MalformedCheckpoint
    yield "pickle that pops nothing", pickled(b"\x80\x020."), MalformedCheckpoint
    yield "pickle of a list", pickled(b"\x80\x02]."), MalformedCheckpoint
    yield "storage cut short", pack({**saved, f"{top}/data/0": b"abc"}), MalformedCheckpoint
    yield "state with code folder", pack({**saved, f"{top}/code/x.py": b""}), UnsupportedCheckpoint
    yield "state with a foreign record", pack({**saved, f"{top}/x.so": b""}), UnsafeCheckpoint
    yield "state compressed", pack(saved, zipfile.ZIP_DEFLATED), UnsafeCheckpoint
    stretched = torch.ones(1).expand(1 << 20, 1 << 20)
    buffer = io.BytesIO()
    torch.save({"weight": stretched}, buffer)
    yield "stretched tensor", buffer.getvalue(), UnsafeCheckpoint
    yield from _safetensors()


def _safetensors() -> Iterator[Raw]:
    def file(header: bytes, data: bytes = b"") -> bytes:
        return struct.pack("<Q", len(header)) + header + data

    def tensor(start: int, end: int, shape: str = "[2,2]", dtype: str = "F32") -> bytes:
        return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}'.encode()

    for name, data in {
        "offsets past the end": file(b'{"weight":' + tensor(0, 16) + b"}", b"x" * 8),
        "offsets that overlap": file(b'{"a":' + tensor(0, 16) + b',"weight":' + tensor(8, 24) + b"}", b"x" * 24),
        "offsets backwards": file(b'{"weight":' + tensor(16, 0) + b"}", b"x" * 16),
        "bytes of no tensor": file(b'{"weight":' + tensor(0, 16) + b"}", b"x" * 32),
        "giant shape": file(b'{"weight":' + tensor(0, 16, "[4611686018427387904,4]") + b"}", b"x" * 16),
        "negative shape": file(b'{"weight":' + tensor(0, 16, "[-2,-2]") + b"}", b"x" * 16),
        "unknown dtype": file(b'{"weight":' + tensor(0, 16, "[2,2]", "PICKLE") + b"}", b"x" * 16),
        "key twice": file(b'{"weight":' + tensor(0, 16) + b',"weight":' + tensor(0, 16) + b"}", b"x" * 16),
        "header cut": file(b'{"weight":' + tensor(0, 16)),
        "header longer than the file": struct.pack("<Q", 90_000_000) + b"{",
        "header of a list": file(b'{"weight":[]}'),
        "NaN": file(
            b'{"layers.0.weight":' + tensor(0, 16) + b',"layers.0.bias":' + tensor(16, 24, "[2]") + b"}",
            struct.pack("<6f", 1, 2, float("nan"), 4, 0, 0),
        ),
    }.items():
        yield f"safetensors {name}", data, MalformedCheckpoint
    deep = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    yield "safetensors nested deeply", file(deep), UnsafeCheckpoint
    yield (
        "safetensors with a huge header",
        struct.pack("<Q", 1 << 62) + b"{" + b" " * 100,
        UnsupportedCheckpoint,
    )


def data(folder: Path, canary: Path) -> Iterator[Case]:
    """Evaluation data for a model that takes (n, 3, 8, 8)."""
    for name, content in _data(canary):
        path = folder / f"{name.replace(' ', '_')}.bin"
        path.write_bytes(content)
        yield Case(name, path, DataError)


def _data(canary: Path) -> Iterator[tuple[str, bytes]]:
    inputs = np.zeros((4, 3, 8, 8), np.float32)

    def npz(**arrays: np.ndarray[Any, Any]) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    honest_npz = npz(inputs=inputs)
    yield "empty file", b""
    yield "not data", b"hello"
    yield "pickled array", npz(inputs=np.array([Touch(canary)], object))
    yield "structured array", npz(inputs=np.zeros(4, [("a", "f4")]))
    yield "strings", npz(inputs=np.array(["a", "b"]))
    yield "complex numbers", npz(inputs=inputs.astype(np.complex64))
    yield "no inputs", npz(targets=np.zeros(4, np.int64))
    yield "something else", npz(inputs=inputs, other=inputs)
    yield "wrong shape", npz(inputs=np.zeros((4, 3, 9, 8), np.float32))
    yield "missing dimension", npz(inputs=np.zeros((3, 8, 8), np.float32))
    yield "no samples", npz(inputs=inputs[:0])
    yield "integers for floats", npz(inputs=inputs.astype(np.int64))
    yield "NaN", npz(inputs=np.full_like(inputs, np.nan))
    yield "too large for the type", npz(inputs=np.full_like(inputs, 1e300, np.float64))
    yield "other number of targets", npz(inputs=inputs, targets=np.zeros(3, np.int64))
    yield "negative class", npz(inputs=inputs, targets=np.array([0, 1, -1, 2]))
    yield "classes in two dimensions", npz(inputs=inputs, targets=np.zeros((4, 2), np.int64))
    yield "targets without dimension", npz(inputs=inputs, targets=np.array(3))
    yield "targets with NaN", npz(inputs=inputs, targets=np.full(4, np.nan, np.float32))
    yield "cut", honest_npz[:-40]
    yield "cut in half", honest_npz[: len(honest_npz) // 2]
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3, 8, %s), }"
    for name, size in {"a giant shape": b"9" * 18, "a shape with code": b"__import__('os').getpid()"}.items():
        text = header % size
        text += b" " * (118 - len(text)) + b"\n" if len(text) < 118 else b"\n"
        npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)
        yield name, pack({"inputs.npy": npy})
    huge = b"\x93NUMPY\x02\x00" + struct.pack("<L", 1 << 20) + b"(" * (1 << 20)
    yield "a huge array header", pack({"inputs.npy": huge})
    yield "a zip bomb", pack({"inputs.npy": bytes(200 << 20)}, zipfile.ZIP_DEFLATED)
    yield "a path in the archive", pack({"../inputs.npy": entries(honest_npz)["inputs.npy"]})
    yield "safetensors cut", struct.pack("<Q", 500) + b'{"inputs":'
