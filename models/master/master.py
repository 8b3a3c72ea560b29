"""The master form: full factors, their importance, and everything that any cut of it needs.

A master is a folder of three files, up to three more where its layers are of float32, another where there were
calibration inputs, and one where plans are to be improved (their entries: see `entries`):

    template.json        the format it is of, the graph, the layers, shapes and dtypes (see `template`)
    master.safetensors   every tensor of the program, every layer's factors, the most important basis first, and what
                         biases and batch norms become at each rank
    plans.npz            `importance` of all bases, layer after layer; `floor` and `steps`, the path
                         of plans that the criterion asks for, and perhaps `steps_by_macs` (see `plan.path`)
    int8.safetensors     what weights and factors are in eight bits (see `rounded`)
    ranges.safetensors   what values reach on calibration inputs (see `ranges`)
    levels.safetensors   what weights and factors are as levels (see `levels`)
    mixture.npz          how ranks and grids of levels are mixed (see `plan.mixture`)
    refit.safetensors    inputs for calibration, and the moment of each layer's output gradients (see `improve`)

The program is the upload, or where its layers have computed weights or zero channels (see `simplify`), the same
without those. Then there are also the tensors of the upload that differ, so that a budget of 1 is still the upload.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rightrank.models.errors import UnreadableMaster
from rightrank.models.master import entries
from rightrank.models.master.levels import LEVELS
from rightrank.models.master.ranges import RANGES
from rightrank.models.master.rounded import ROUNDED
from rightrank.models.master.template import Template
from rightrank.models.master.tensorfile import TensorFile

if TYPE_CHECKING:
    from torch import Tensor

    from rightrank.models.program.program import Program


@dataclass(frozen=True)
class Master:
    """A master in a folder. Its tensors are read when they are asked for."""

    folder: Path
    template: Template

    @staticmethod
    def open(folder: Path) -> Master:
        """Raises UnreadableMaster for one of another version."""
        return Master(folder, Template.open(folder))

    @cached_property
    def file(self) -> TensorFile:
        """All entries as raw bytes, without torch. Raises UnreadableMaster for one of another version."""
        file = TensorFile(self.folder / entries.MASTER)
        for layer in self.template.decomposed:
            for side, shape in layer.factor_shapes(layer.rank).items():
                wanted = shape if self.template.format else _unnamed(side, shape)
                name = entries.factor(side, layer.name)
                if name not in file or file.shape(name) != wanted:
                    raise UnreadableMaster(
                        f"The model's factors of {layer.name} are stored otherwise than this version reads them.",
                        "It is of an earlier version: delete the model and upload it again.",
                    )
        return file

    @cached_property
    def levels(self) -> TensorFile:
        """All levels (see `levels`). Raises FileNotFoundError where there are none."""
        return TensorFile(self.folder / LEVELS)

    @cached_property
    def rounded(self) -> TensorFile | None:
        """What weights and factors are in eight bits (see `rounded`); None where that is not there."""
        path = self.folder / ROUNDED
        return TensorFile(path) if path.exists() else None

    @cached_property
    def ranges(self) -> TensorFile | None:
        """The ranges of values (see `ranges`); None where they are not there."""
        path = self.folder / RANGES
        return TensorFile(path) if path.exists() else None

    def tensors(self) -> dict[str, Tensor]:
        """All entries as torch's tensors. Raises UnreadableMaster for one of another version."""
        from safetensors.torch import load_file

        _ = self.file
        return load_file(self.folder / entries.MASTER)

    def program(self, stored: dict[str, Tensor] | None = None) -> Program:
        """The program that is cut, whole; of entries that are loaded already, if they are given."""
        from rightrank.models.program.program import Program

        stored = self.tensors() if stored is None else stored
        return Program(self.template.graph, {name: stored[entries.dense(name)] for name in self.template.tensors})


def _unnamed(side: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A factor's shape in masters that name no format: (R, m), and (C_out, R, n/C_out)."""
    kept = 1 if side == "down" else 2
    return (*shape[:kept], math.prod(shape[kept:]))
