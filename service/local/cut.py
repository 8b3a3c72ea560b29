"""A file of any size, cut here: the bytes that a service would send for the same upload and the same question."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rightrank.models.emit.format import FIRST
from rightrank.models.emit.formats import FORMATS
from rightrank.models.errors import FormatError
from rightrank.models.progress import Progress
from rightrank.service.jobs.cutter import Cutter, metric_of
from rightrank.service.local import kept
from rightrank.service.local.taken import Given
from rightrank.service.problems import Problem
from rightrank.service.registry.model import Record, told


def cut(
    source: Given | Path,
    file: Path,
    *,
    size: Mapping[str, Any],
    precision: str | None = None,
    format: str = FIRST.format,
    master: Path | None = None,
    progress: Progress,
    noted: Callable[[str], None],
) -> tuple[Record, dict[str, str]]:
    """Writes to `file` the largest size of a model within the limits `size` (`budget`, `of`, `max_bytes`, …); what is
    known of it, and what a service's headers would say.

    `source` is an upload, whose master is kept in the folder `master`, where one is named, and taken from there where
    it is there already; or the folder of such a master. Raises what the service would refuse, and `Problem`.
    """
    _check(size, format)
    if isinstance(source, Given) and file.exists() and any(file.samefile(each) for each in source.files.values()):
        raise Problem("invalid-request", f"{file} is one of the files that were given.", "Name another with -o.")
    with contextlib.ExitStack() as held:
        # What is made appears where it is to be by being moved.
        work, beside = (held.enter_context(_work_beside(path)) for path in (file, master or file))
        folder = source if isinstance(source, Path) else _master(source, master, beside, progress, noted)
        model = kept.open(folder)
        plan = model.planner_in(precision, format).plan(**size)
        cutter = Cutter(folder, metric_of(model.manifest), progress)
        part = work / f"cut{FORMATS[format][-1].suffix}"
        record = cutter.cut(plan, part, None, kept.improvement(model, plan, folder, progress))
        part.replace(file)
    of = str(size.get("of", "params"))
    return record, {name.lower().removeprefix("rightrank-"): said for name, said in told(model, record, of).items()}


@contextlib.contextmanager
def _work_beside(path: Path) -> Iterator[Path]:
    """A folder for work on the same disk as `path`, in whose folder it is; that is made where it is not there."""
    parent = path.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rightrank-", dir=parent) as name:
        yield Path(name)


def _master(given: Given, master: Path | None, work: Path, progress: Progress, noted: Callable[[str], None]) -> Path:
    upload = given.identified()
    if master is None:
        return kept.build(given, upload, work, progress, noted)
    if not (master / kept.MANIFEST).exists():
        if master.exists() and (not master.is_dir() or any(master.iterdir())):
            raise Problem(
                "invalid-request", f"{master} is there, and no master.", "Name a folder that is new or empty."
            )
        kept.keep(kept.build(given, upload, work, progress, noted), master)
    elif kept.open(master).id != upload["id"]:
        raise Problem(
            "invalid-request",
            f"The master in {master} was made of another upload: of other files, or with other options.",
            f"Cut it by its folder, rightrank cut {master}, or name another folder.",
        )
    return master


def _check(size: Mapping[str, Any], format: str) -> None:
    """Raises for what no size can be asked by, and no file made as here, before any work."""
    budget, of = size.get("budget"), size.get("of", "params")
    if budget is not None and not 0 < budget <= 1:
        raise Problem("invalid-request", f"`budget` is a share above 0 and at most 1, and not {budget:g}.")
    if of not in ("params", "macs"):
        raise Problem("invalid-request", f"`of` is params or macs, and not {of!r}.")
    if "of" in size and budget is None:
        raise Problem("invalid-request", "`of` says what a budget is a fraction of, and there is none.")
    for name in ("max_bytes", "max_params", "max_macs"):
        if name in size and size[name] <= 0:
            raise Problem("invalid-request", f"`{name}` is above 0, and not {size[name]}.")
    if format not in FORMATS:
        raise FormatError(f"There is no format {format[:40]!r}.", f"There are {', '.join(FORMATS)}.")
    if why := FORMATS[format][-1].available():
        raise Problem("format-missing", why)
