"""A file of any size, cut here: the bytes that a service would send for the same upload and the same question."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rightrank.models.emit.formats import FORMATS
from rightrank.models.errors import FormatError
from rightrank.models.progress import Progress
from rightrank.service.api.certify import row_of
from rightrank.service.api.choose import Ask, certified, choose, walked
from rightrank.service.local.kept import MANIFEST, Kept, build, keep
from rightrank.service.local.taken import Given
from rightrank.service.problems import Problem
from rightrank.service.registry.model import Record, told


def cut(
    source: Given | Path,
    file: Path,
    ask: Ask,
    *,
    master: Path | None = None,
    progress: Progress,
    noted: Callable[[str], None],
) -> tuple[Record, dict[str, str]]:
    """Writes to `file` the size of a model that is asked for; what is known of it, and what a service's headers would
    say. Where an accuracy is asked for, the sizes that a service measures after an upload are measured first.

    `source` is an upload, whose master is kept in the folder `master`, where one is named, and taken from there where
    it is there already; or the folder of such a master. Raises what the service would refuse, and `Problem`.
    """
    _check(ask)
    if file.is_dir():
        raise Problem("invalid-request", f"{file} is a folder.", "Name a file with -o.")
    if isinstance(source, Given) and file.exists() and any(file.samefile(each) for each in source.files.values()):
        raise Problem("invalid-request", f"{file} is one of the files that were given.", "Name another with -o.")
    with contextlib.ExitStack() as held:
        # What is made appears where it is to be by being moved.
        work, beside = (held.enter_context(_work_beside(path)) for path in (file, master or file))
        folder = source if isinstance(source, Path) else _master(source, master, beside, progress, noted)
        kept = Kept.open(folder)
        model, part = kept.model, work / f"cut{FORMATS[ask.format][-1].suffix}"
        if ask.min_accuracy is not None or ask.max_error is not None:
            _measure(kept, ask, part, progress)
        plan = choose(kept, model, ask)
        record = kept.cut(plan, part, progress)
        part.replace(file)
    headers = told(model, record, ask.of) | certified(record, ask)
    return record, {name.lower().removeprefix("rightrank-"): said for name, said in headers.items()}


def _measure(kept: Kept, ask: Ask, part: Path, progress: Progress) -> None:
    """Measures the sizes among which one is chosen by its accuracy, as far as they are not known."""
    model = kept.model
    if ask.confidence is not None:
        while (walk := walked(kept, model, ask)) is not None and walk.missing is not None:
            kept.cut(walk.missing, part, progress)
    elif model.manifest["evaluation"] is not None:
        for plan in row_of(model, ask.planner(model)):
            if kept.record(model.id, plan.digest) is None:
                kept.cut(plan, part, progress)


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
        return build(given, upload, work, progress, noted)
    if not (master / MANIFEST).exists():
        if master.exists() and (not master.is_dir() or any(master.iterdir())):
            raise Problem(
                "invalid-request", f"{master} is there, and no master.", "Name a folder that is new or empty."
            )
        keep(build(given, upload, work, progress, noted), master)
    elif Kept.open(master).model.id != upload["id"]:
        raise Problem(
            "invalid-request",
            f"The master in {master} was made of another upload: of other files, or with other options.",
            f"Cut it by its folder, rightrank cut {master}, or name another folder.",
        )
    return master


def _check(ask: Ask) -> None:
    """Raises for what is out of bounds, for what does not go together, and for files that are not made here, before
    any work."""
    if ask.budget is not None and not 0 < ask.budget <= 1:
        raise Problem("invalid-request", f"`budget` is a share above 0 and at most 1, and not {ask.budget:g}.")
    if ask.of not in (None, "params", "macs"):
        raise Problem("invalid-request", f"`of` is params or macs, and not {str(ask.of)[:40]!r}.")
    for name in ("max_bytes", "max_params", "max_macs"):
        if (most := getattr(ask, name)) is not None and most <= 0:
            raise Problem("invalid-request", f"`{name}` is above 0, and not {most}.")
    if ask.confidence is not None and not 0 < ask.confidence < 1:
        raise Problem("invalid-request", f"`confidence` is above 0 and below 1, and not {ask.confidence:g}.")
    ask.check()
    if ask.format not in FORMATS:
        raise FormatError(f"There is no format {ask.format[:40]!r}.", f"There are {', '.join(FORMATS)}.")
    if why := FORMATS[ask.format][-1].available():
        raise Problem("format-missing", why)
