"""A master that lies here: its files as the service stores them, and beside them what the service's manifest says.

The manifest is written last, so a folder that was not finished is none.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.models.plan.planner import Plan
from rightrank.models.progress import Progress
from rightrank.service.jobs import effort
from rightrank.service.jobs.cutter import Cutter, metric_of
from rightrank.service.jobs.make import make
from rightrank.service.local.taken import Given
from rightrank.service.problems import Problem
from rightrank.service.registry.model import Model, Record

if TYPE_CHECKING:
    from rightrank.service.registry.reports import ByFile

MANIFEST, IMPROVED, MEASURED = "manifest.json", "improved", "measurements"


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
    (made.folder / MEASURED).mkdir()
    (made.folder / MEASURED / f"{made.original.plan.digest}.json").write_text(_json(made.original.to_json()))
    (made.folder / MANIFEST).write_text(_json({**made.manifest, "created": time.time()}))
    for text in made.manifest.get("notes", []):
        noted(text)
    return made.folder


def keep(made: Path, folder: Path) -> None:
    """Moves a master that was made, on the same disk, to where it is to stay: what is not there yet, or empty."""
    made.replace(folder)


@dataclass(frozen=True)
class Kept:
    """A master in a folder, its model, and what is known of its cuts, which is written beside it."""

    folder: Path
    model: Model
    reports: Unreported = field(default_factory=lambda: Unreported())

    @staticmethod
    def open(folder: Path) -> Kept:
        """Raises `Problem` where there is none, or not a whole one."""
        path, hint = folder / MANIFEST, "rightrank cut FILE --master DIR keeps one."
        if not path.is_file():
            raise Problem("model-not-found", f"There is no master in {folder}.", hint)
        try:
            manifest = json.loads(path.read_bytes())
            id, sizes = str(manifest["id"]), {name: about["size"] for name, about in manifest["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Problem("model-not-found", f"{path} is no master's manifest.", hint) from error
        for name, size in sizes.items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != size:
                raise Problem("model-not-found", f"The master in {folder} is not whole: {name} is not as it was.", hint)
        return Kept(folder, Model.open(folder, id, manifest, ""))

    def record(self, id: str, digest: str) -> Record | None:
        """What is known of a cut by its plan's digest."""
        path = self.folder / MEASURED / f"{digest}.json"
        return Record.from_json(json.loads(path.read_bytes())) if path.exists() else None

    def records(self, id: str) -> list[Record]:
        """Every known cut, the smallest first."""
        found = [self.record(id, path.stem) for path in (self.folder / MEASURED).glob("*.json")]
        return sorted((record for record in found if record is not None), key=lambda record: record.size)

    def cut(self, plan: Plan, file: Path, progress: Progress) -> Record:
        """Writes a plan's file, and measures it unless these very bytes are known."""
        known = self.record(self.model.id, plan.digest)
        cutter = Cutter(self.folder, metric_of(self.model.manifest), progress)
        record = cutter.cut(plan, file, known, self._improvement(plan, progress))
        if record != known:
            said = _json(record.to_json())
            _write(self.folder / MEASURED / f"{plan.digest}.json", lambda path: path.write_text(said))
        return record

    def _improvement(self, plan: Plan, progress: Progress) -> Path | None:
        """The file of what a plan has of its own, made where it is not there yet; None where it has nothing."""
        manifest = self.model.manifest
        if not effort.improves(manifest["options"], plan):
            return None
        path = self.folder / IMPROVED / f"{effort.improved_digest(manifest, plan)}.safetensors"
        if not path.exists():
            _write(path, lambda made: effort.improve_plan(manifest, plan, self.folder, made, progress))
        return path


class Unreported:
    """That nobody reports anything of what lies here."""

    def of(self, id: str) -> ByFile:
        return {}


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Has a file written that is there once it is whole."""
    path.parent.mkdir(exist_ok=True)
    # Another command may be making the same.
    partial = path.with_name(f"{path.stem}-{uuid.uuid4().hex}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"))
