"""One line to publish: a trained module and data as they are at hand, from a notebook or a script.

Needs torch, unlike the rest of the client.
"""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rightrank.models.errors import DataError
from rightrank.models.exporting import Example, Free, export
from rightrank.service.client.bars import Bars
from rightrank.service.client.http import Client

LOCAL = "http://127.0.0.1:8000"
# One array for each input: alone, in the order of the network's inputs, or by their names.
Inputs: TypeAlias = "Tensor | np.ndarray[Any, Any] | Sequence[Any] | Mapping[str, Any]"
# Inputs with targets: a pair, or batches as a DataLoader has them: pairs, or dicts with the targets among the inputs.
Evaluation: TypeAlias = "tuple[Inputs, Any] | Iterable[tuple[Inputs, Any] | Mapping[str, Any]]"
# What targets are called in a dict, here and by others.
TARGETS = ("targets", "labels", "label")
COLUMNS = ("budget", "params", "bytes", "accuracy", "low", "high", "method")


@dataclass(frozen=True)
class Published:
    """A model on a server."""

    id: str
    name: str | None
    url: str

    @property
    def reference(self) -> str:
        return self.name or self.id

    def describe(self) -> dict[str, Any]:
        """What the server says of it."""
        with _client(self.url) as client:
            return client.show(self.id)

    def curve(self, precision: str | None = None, format: str | None = None) -> list[dict[str, Any]]:
        """What was measured of its files in a precision and format, the smallest first; right after publishing more is
        still being measured."""
        with _client(self.url) as client:
            return client.curve(self.id, precision, format)

    def pull(self, file: str | os.PathLike[str], budget: float | None = None, **size: Any) -> dict[str, str]:
        """Fetches it into `file` at a size: a `budget`, or what the API takes besides (`max_bytes=200_000`,
        `precision="int8"`); without any the original. What the answer's headers say of the file."""
        wanted = {**({} if budget is None else {"budget": budget}), **size} or {"budget": 1}
        with _client(self.url) as client, Bars(Console(stderr=True)) as bars:
            headers = client.pull(self.id, wanted, Path(file), bars)
        return {key.removeprefix("rightrank-"): value for key, value in headers.items() if "rightrank-" in key}

    def load(self, budget: float | None = None, **size: Any) -> Any:
        """It at a size (see `pull`), as a TorchScript module that runs here."""
        with tempfile.TemporaryDirectory(prefix="rightrank-") as folder:
            file = Path(folder, "model.pt")
            self.pull(file, budget, **size)
            return torch.jit.load(str(file), map_location="cpu").eval()  # type: ignore[no-untyped-call]

    def _repr_html_(self) -> str:
        """For notebooks: what was measured so far."""

        def cell(value: Any) -> str:
            return "" if value is None else f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))

        rows = ["".join(f"<td>{cell(point[column])}</td>" for column in COLUMNS) for point in self.curve()]
        head = "".join(f"<th>{column}</th>" for column in COLUMNS)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<p>{html.escape(self.reference)} ({self.id})</p><table><tr>{head}</tr>{body}</table>"


def push(
    module: nn.Module,
    example: Example,
    *,
    evaluation: Evaluation | None = None,
    calibration: Inputs | DataLoader[Any] | None = None,
    name: str | None = None,
    free: Free | None = None,
    options: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    url: str | None = None,
    **more: Any,
) -> Published:
    """Publishes a trained module, and waits until it can be fetched.

    `module`, `example` and `free` are what `export` takes. `evaluation` is what accuracy is measured on, inputs and
    targets, `calibration` a few hundred inputs; either may be a DataLoader, whose batches may differ in length. `card`
    is what every file says of the model: `description`, `license`, `labels` (the classes' names) and `preprocessing` (a
    dict). `options`, or by their names what else is given, are the upload's: `effort="refit"`, `precision="auto"`,
    `metric="miou"`. The server is `url`, by default that of RIGHTRANK_URL or this machine's; its key is read from
    RIGHTRANK_KEY. Raises ExportError, DataError, and what the client raises.
    """
    address = url or os.environ.get("RIGHTRANK_URL") or LOCAL
    with tempfile.TemporaryDirectory(prefix="rightrank-") as folder:
        names = list(example) if isinstance(example, Mapping) else []
        files = {
            "evaluation": None if evaluation is None else _evaluation(evaluation, names),
            "calibration": None if calibration is None else _calibration(calibration, names),
        }
        paths = {role: Path(folder, f"{role}.safetensors") for role, found in files.items() if found is not None}
        for role, path in paths.items():
            save_file(files[role] or {}, path)
        file = export(module, example, Path(folder, f"{(name or 'model').replace('/', '_')}.pt2"), free=free)
        with _client(address) as client, Bars(Console(stderr=True)) as bars:
            answer = client.push(
                file,
                name=name,
                evaluation=paths.get("evaluation"),
                calibration=paths.get("calibration"),
                options={**(options or {}), **more},
                card=card,
                progress=bars,
            )
            client.wait(str(answer["operation"]), bars)
    return Published(str(answer["id"]), name, address)


def _client(url: str) -> Client:
    return Client(url, os.environ.get("RIGHTRANK_KEY"))


def _evaluation(given: Evaluation, names: Sequence[str]) -> dict[str, Tensor]:
    """Inputs and targets by name. Raises DataError."""
    whole = isinstance(given, Mapping) or (isinstance(given, tuple) and len(given) == 2)
    batches = [_batch(each, names) for each in ([given] if whole else given)]
    if not batches:
        raise DataError("There are no evaluation data.", "Give (inputs, targets), or a DataLoader of such batches.")
    return _together(batches)


def _calibration(given: Inputs | DataLoader[Any], names: Sequence[str]) -> dict[str, Tensor]:
    """Inputs by name; a loader's targets are left out. Raises DataError."""
    if not isinstance(given, DataLoader):
        return _inputs(given, names)
    batches = [_batch(each, names) for each in given]
    if not batches:
        raise DataError("There are no calibration data.", "Give inputs, or a DataLoader that has some.")
    return _together([{key: each for key, each in batch.items() if key != "targets"} for batch in batches])


def _batch(given: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """Inputs and, where there are any, targets by name. Raises DataError."""
    if isinstance(given, Mapping):
        found = {"targets" if key in TARGETS and key not in names else key: each for key, each in given.items()}
        # A tokenizer gives more than a network may take.
        return _inputs({key: each for key, each in found.items() if not names or key in (*names, "targets")}, names)
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return {**_inputs(given[0], names), "targets": _tensor(given[1])}
    return _inputs(given, names)


def _together(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """All samples: rows of one array for each name, or where batches differ in length, in groups of one shape."""
    groups: dict[Any, list[Mapping[str, Tensor]]] = {}
    for batch in batches:
        groups.setdefault(tuple(sorted((key, each.shape[1:]) for key, each in batch.items())), []).append(batch)
    found = [{key: torch.cat([each[key] for each in group]) for key in group[0]} for group in groups.values()]
    if len(found) == 1:
        return found[0]
    return {f"{key}.{number}": each for number, group in enumerate(found) for key, each in group.items()}


def _inputs(given: Inputs, names: Sequence[str]) -> dict[str, Tensor]:
    """Inputs by name, the only one as `inputs`. Those in the order of a tuple are called as in the example, which then
    has names. Raises DataError."""
    if isinstance(given, Mapping):
        return {key: _tensor(each) for key, each in given.items() if each is not None}
    if not isinstance(given, (tuple, list)):
        return {"inputs": _tensor(given)}
    if len(given) == 1:
        return {"inputs": _tensor(given[0])}
    if len(names) != len(given):
        raise DataError(
            f"{len(given)} inputs came without their names.",
            "Give example and data as dicts, by the names of `forward`'s arguments.",
        )
    return {name: _tensor(each) for name, each in zip(names, given, strict=True)}


def _tensor(value: Any) -> Tensor:
    """A tensor of its own, on the CPU. Raises DataError for what is none."""
    try:
        return torch.as_tensor(value).detach().cpu().contiguous().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"Of the data a {type(value).__name__} is no array: {str(error)[:200]}", "Give tensors or numpy arrays."
        ) from error
