"""One network of the benchmark, with what is made of it on the way and kept for the next method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx

from benchmarks import masters, programs
from benchmarks.bytes.fold import folded
from benchmarks.bytes.quantise import Coded, quantised
from benchmarks.bytes.subjects import Subject
from rightrank.models.improve import refit
from rightrank.models.improve.distill import Recipe
from rightrank.models.master import entries
from rightrank.models.progress import Progress, silent

BATCH = 128


@dataclass(frozen=True)
class Found:
    """One file: its `bytes` as sent, how many numbers it has (`params`) and what it answers for each image (n,).
    `won` is the correction that was chosen for it, where there was a choice."""

    bytes: int
    params: int
    answers: Tensor
    won: str = ""


@dataclass(frozen=True)
class Quantised:
    """A network with its batch norms folded and its `weights` quantised, and what it answers."""

    model: fx.GraphModule
    weights: Mapping[str, Coded]
    answers: Tensor


@dataclass
class Study:
    """`folder` is the network's own, `training` how one size is polished; `rivals` gives the bytes of the int8 and int4
    files that are measured already, by name."""

    subject: Subject
    folder: Path
    training: Recipe
    rivals: Callable[[], Mapping[str, int]]
    progress: Progress = silent
    _coded: dict[tuple[str, bool], Quantised] = field(default_factory=dict)

    @cached_property
    def program(self) -> Path:
        """The folder of the network's program, with its calibration inputs."""
        out = self.folder / "program"
        if not (out / "calibration.safetensors").exists():
            programs.write(self.subject.module, self.subject.shape, out)
            _put(out / "calibration.safetensors", self.subject.calibration)
        return out

    def master(self, effort: str) -> Path:
        """The folder of the master that an effort improves: what is polished keeps more inputs."""
        base = "polish" if effort == "polish" else "cut"
        out = self.folder / base
        if (out / entries.PLANS).exists():
            return out
        partial = self.folder / "partial"
        if base == "polish":
            masters.to_polish(self.master("cut"), partial, self.subject.tuning)
        else:
            masters.make(self.program, partial, keep=refit.INPUTS, progress=self.progress)
        partial.rename(out)
        return out

    def coded(self, width: str, feedback: bool) -> Quantised:
        """The network with its weights quantised."""
        if (width, feedback) not in self._coded:
            self.progress("quantise", 0, 1, "networks")
            model = folded(self.subject.module)
            weights = quantised(model, width, self.subject.calibration if feedback else None)
            self._coded[width, feedback] = Quantised(model, weights, self.answers(model))
        return self._coded[width, feedback]

    def answers(self, model: Callable[..., Any]) -> Tensor:
        """The place of the largest output for each image (n,), −1 where outputs are not finite."""
        found = []
        with torch.inference_mode():
            for start, part in enumerate(torch.split(self.subject.images, BATCH)):
                self.progress("measure", start * BATCH, len(self.subject.images), "images")
                outputs = model(part)
                found.append(outputs.argmax(1).masked_fill(~outputs.isfinite().all(1), -1))
        return torch.cat(found)

    @cached_property
    def original(self) -> Tensor:
        """What the network itself answers."""
        kept = self.folder / "original.safetensors"
        if not kept.exists():
            _put(kept, self.answers(self.subject.module), "answers")
        return load_file(kept)["answers"]

    @cached_property
    def exchanged(self) -> Path:
        """A folder of what programs in other environments take: the network with its batch norms folded as `model.pt2`,
        its tensors as it is, calibration inputs and images."""
        out = self.folder / "exchanged"
        if not (out / "evaluation.safetensors").exists():
            out.mkdir(exist_ok=True)
            model = folded(self.subject.module)
            programs.export(model, self.subject.shape, out / "model.pt2")
            stored = self.subject.module.state_dict()
            save_file(
                {name: each for name, each in stored.items() if each.is_floating_point()}, out / "network.safetensors"
            )
            _put(out / "calibration.safetensors", self.subject.calibration)
            _put(out / "evaluation.safetensors", self.subject.images)
        return out


def _put(path: Path, tensor: Tensor, name: str = "inputs") -> None:
    """A file that is there whole, or not."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor}, partial)
    partial.rename(path)
