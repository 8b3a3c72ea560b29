"""Evaluation data for each kind of task, written into the folder that one is in: the lines that the README shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

Array: TypeAlias = NDArray[Any]


def texts(groups: Sequence[tuple[Array, Array, Array]]) -> None:
    arrays: dict[str, Any] = {}
    for k, (ids, mask, labels) in enumerate(groups):
        arrays |= {f"input_ids.{k}": ids, f"attention_mask.{k}": mask, f"targets.{k}": labels}
    numpy.savez("eval.npz", **arrays)


def tags(ids: Array, tags: Array, lengths: Array) -> None:
    padding = numpy.arange(ids.shape[1]) >= lengths[:, None]
    numpy.savez("eval.npz", input_ids=ids, targets=numpy.where(padding, -100, tags))


def masks(square: Array, square_masks: Array, wide: Array, wide_masks: Array) -> None:
    arrays: dict[str, Any] = {"images.0": square, "targets.0": square_masks}
    arrays |= {"images.1": wide, "targets.1": wide_masks}
    numpy.savez("eval.npz", **arrays)


def labels(images: Tensor, digits: Tensor) -> None:
    save_file({"inputs": images, "targets": digits}, "eval.safetensors")


def answers(features: Array, malignant: Array) -> None:
    numpy.savez("eval.npz", inputs=features, targets=malignant.astype(int))


def numbers(features: Array, progression: Array) -> None:
    numpy.savez("eval.npz", inputs=features, targets=progression.astype("float32"))


def embeddings(images: Array) -> None:
    numpy.savez("eval.npz", inputs=images)


def language(windows: Array) -> None:
    numpy.savez("eval.npz", input_ids=windows[:, :-1], targets=windows[:, 1:])
