"""A master that lies here: its files as the service stores them, and beside them what the service's manifest says.

The manifest is written last, so a folder that was not finished is none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rightrank.models.progress import Progress
from rightrank.service.jobs import effort
from rightrank.service.jobs.make import make
from rightrank.service.local.taken import Given
from rightrank.service.problems import Problem
from rightrank.service.registry.model import Model

MANIFEST, IMPROVED = "manifest.json", "improved"


def build(
    given: Given, upload: Mapping[str, Any], work: Path, progress: Progress, noted: Callable[[str], None]
) -> Path:
    """Makes the master of an upload in the folder `work`, where it then lies in one of its own; that folder. Raises
    what the service would refuse the upload with."""

    def note(text: str | None) -> None:
        if text is not None:
            noted(text)

    reading = given.read(upload, work / "program", progress)
    made = make(upload, reading, work, progress, note, work / "tuning.safetensors")
    keep = {*made.manifest["files"]}
    for path in made.folder.iterdir():
        if path.name not in keep:
            path.unlink()
    (made.folder / MANIFEST).write_text(json.dumps({**made.manifest, "created": time.time()}))
    for text in made.manifest.get("notes", []):
        noted(text)
    return made.folder


def keep(made: Path, folder: Path) -> None:
    """Moves a master that was made, on the same disk, to where it is to stay: what is not there yet, or empty."""
    made.replace(folder)


def open(folder: Path) -> Model:
    """The model whose master lies in `folder`. Raises `Problem` where there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise Problem(
            "model-not-found", f"There is no master in {folder}.", "rightrank cut FILE --master DIR keeps one."
        )
    manifest = json.loads(path.read_bytes())
    return Model.open(folder, str(manifest["id"]), manifest, "")


def improvement(model: Model, plan: Any, folder: Path, progress: Progress) -> Path | None:
    """The file of what a plan has of its own, made where it is not there yet; None where it has nothing."""
    if not effort.improves(model.manifest["options"], plan):
        return None
    path = folder / IMPROVED / f"{effort.improved_digest(model.manifest, plan)}.safetensors"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        effort.improve_plan(model.manifest, plan, folder, partial, progress)
        partial.replace(path)
    return path
