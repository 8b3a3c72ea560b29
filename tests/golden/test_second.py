"""Files of the second writer stay what they are, to the byte, in every encoding.

The masters are those of `test_unchanged`, the levels made here by arithmetic; `second.json` has the SHA-256 of their
files. Where one of these tests fails, the code has to change back, or become a third writer.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from rightrank.models.emit import formats
from rightrank.models.emit.coded import block_bytes, coded
from rightrank.models.emit.format import Output
from rightrank.models.emit.torchscript.fold import folds
from rightrank.models.factor.factors import axis_of_bases
from rightrank.models.master import entries
from rightrank.models.master.levels import FIXED, LEVELS
from rightrank.models.master.template import Template
from rightrank.models.plan.mixture import Mixture, State
from rightrank.models.plan.planner import Planner
from tests.golden.arithmetic import write

MASTERS, DIGESTS = Path(__file__).parent / "masters", Path(__file__).parent / "second.json"
NAMES = ("convolutional", "transformer", "tuned")
# Of each grid the largest level, and how levels are packed.
GRIDS = {"fine": (90, 0), "coarse": (5, 1), "few": (1, 3)}
# What the one has of others, whose template says that small things beside levels have fewer bits, or that some have
# more.
OTHERS = {"brief": "transformer", "wide": "convolutional"}


def levels(folder: Path) -> None:
    """Levels of a master, and how they are mixed, of numbers that are the same on every machine."""
    template = Template.open(folder)
    cut = {layer.weight for layer in template.decomposed}
    found: dict[str, NDArray[Any]] = {}
    states: dict[str, list[State]] = {}
    fixed = 0

    def drawn(rows: int, width: int, most: int) -> NDArray[Any]:
        numbers = np.arange(rows * width).reshape(rows, width)
        return ((numbers * 7919 + numbers**2 % 101) % (2 * most + 1) - most).astype(np.int8)

    def scales(count: int) -> NDArray[Any]:
        return (1 + np.arange(count) % 7) / np.float64(512)

    for layer in template.layers:
        outputs = layer.shape[0]
        for number, (grid, (most, packing)) in enumerate(GRIDS.items() if layer.weight in cut else [(FIXED, (127, 0))]):
            made = coded({"": (drawn(outputs, layer.inputs, most), scales(outputs))}, packing)[""]
            found |= made.entries(grid, template.entry(layer.weight))
            size = block_bytes([made], outputs)
            if layer.weight not in cut:
                fixed += size
                continue
            states.setdefault(layer.weight, []).append(State(0, number, packing, size, size, 1.0 * 4**number))
            if any(axis_of_bases(layer, side) is None for side in layer.form.sides):
                continue
            several = {}
            for side, shape in layer.factor_shapes(layer.break_even).items():
                width = int(np.prod(shape)) // layer.break_even
                several[side] = drawn(layer.break_even, width, most), scales(shape[0])
            by_side = coded(several, packing)
            for side, each in by_side.items():
                found |= each.entries(grid, entries.factor(side, layer.name))
            for rank in (1, layer.break_even // 2 or 1, layer.break_even):
                size = block_bytes([*by_side.values()], rank)
                states[layer.weight].append(State(rank, number, packing, size, size, 9.0 * 4**number / rank))
    save_file(found, folder / LEVELS)
    several_states = [states[layer.weight] for layer in template.decomposed]
    Mixture.of(several_states, fixed, list(GRIDS), [1.0] * len(several_states)).save(folder)


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masters")
    for name in NAMES:
        write(MASTERS / name, folder / name)
        levels(folder / name)
    for name, other in OTHERS.items():
        write(MASTERS / other, folder / name)
        {"brief": brief, "wide": wide}[name](folder / name)
        levels(folder / name)
    return folder


def brief(folder: Path) -> None:
    """A template whose weights have one scale each, and whose vectors have eight bits."""
    template = Template.open(folder)
    alike = {layer.weight for layer in template.decomposed if layer.groups == 1}
    read = template.graph.parameters - {layer.weight for layer in template.layers}
    vectors = {name for name in read if len(template.tensors[name].shape) == 1}
    assert alike and vectors
    replace(template, alike=frozenset(alike), vectors=frozenset(vectors)).save(folder)


def wide(folder: Path) -> None:
    """A template of which some weights' scales are float32, with what is folded into one, and a vector of no layer."""
    template = Template.open(folder)
    norms = folds(template)
    folded, *others = [layer.weight for layer in template.decomposed if layer.weight in norms]
    vectors = {name for name, spec in template.tensors.items() if len(spec.shape) == 1}
    alone = sorted(vectors - {name for fold in norms.values() for name in fold.tensors})
    assert others and alone
    replace(template, wide=frozenset([folded, alone[0]])).save(folder)


def digests(folder: Path, encoding: str) -> list[str]:
    """Of the smallest file, one in the middle and the largest."""
    planner = Planner.open(folder, Output(writer=2, encoding=encoding))
    found = []
    for count in (0, len(planner) // 2, len(planner) - 1):
        plan, file = planner._at(count), io.BytesIO()
        formats.write(folder, plan, file)
        assert len(file.getvalue()) == plan.bytes
        found.append(hashlib.sha256(file.getvalue()).hexdigest())
    return found


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
@pytest.mark.parametrize("encoding", ["plain", "half", "int8", "levels"])
def test_its_files_are_what_they_were(masters: Path, name: str, encoding: str) -> None:
    assert digests(masters / name, encoding) == json.loads(DIGESTS.read_text())[name][encoding]
