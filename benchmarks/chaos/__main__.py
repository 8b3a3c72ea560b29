"""Kills and freezes the service's processes under load, and checks what was promised.

    python -m benchmarks.chaos [--setup machine|cluster] [--events 200] [--seed 1]

Clients upload, cancel, delete and fetch meanwhile. Afterwards every upload that was accepted must be a model or say why
not, every file must have been the one that it was announced as, nothing may be left over; then 40 models are
uploaded at once to a fresh service, and the time until all are ready is taken. The exit status says whether all held.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import results
from benchmarks.chaos import clients, faults, settle, setups, verdict
from benchmarks.chaos.family import Reaper
from benchmarks.chaos.journal import Accepted, Journal
from benchmarks.chaos.material import Material, export
from benchmarks.chaos.setups import SETUPS, Setup
from benchmarks.processes import ROOT

CLIENTS, EVENTS, MODELS = 32, 200, 40
GAP, LIMIT = 3.0, 600.0
WARM_SECONDS = 6.0
TEMPLATE = "network.pt2"
# The numbers of the networks that are there before the faults, and of those uploaded at once after them.
FIRST, MANY = 1_000_000, 2_000_000
MODEL = re.compile(r"\bm[0-9a-f]{24}\b")
# The last line of what an error that nobody expected leaves in a log.
ERROR = re.compile(r"^(?:\s*\| )*((?:\w+\.)*\w*(?:Error|Exception|Timeout)\b.{0,160})", re.MULTILINE)
# Troubles of one kind that are told with all that is around them.
TOLD = 5


@dataclass(frozen=True)
class Scale:
    """How much is done: `events` about `gap` seconds apart over `first` models and up to `most` uploads under way, and
    `models` at once afterwards."""

    setups: tuple[str, ...]
    events: int
    seed: int
    clients: int
    gap: float
    longest: float
    models: int
    limit: float
    first: int
    most: int


@dataclass(frozen=True)
class Row:
    """One set-up. Times in seconds, memory in MiB, `store` and `spare` in bytes."""

    setup: str
    events: int
    seed: int
    clients: int
    seconds: float
    requests: int
    unanswered: int
    busy: int
    accepted: int
    ready: int
    failed: int
    taken_back: int
    files: int
    settled: float
    store: int
    spare: int
    api_before: int
    api_after: int
    worker_before: int
    worker_after: int
    models: int
    models_ready: float
    models_cpu: float
    troubles: int


def main() -> None:
    scale, folder, logs = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    reaper, mark = Reaper(), uuid.uuid4().hex
    kinds = [SETUPS[name] for name in scale.setups]
    with guard(mark), results.place(folder is None and logs is None, folder) as place, kept(logs) as scratch:
        export(scratch / TEMPLATE)
        material = Material(scratch / TEMPLATE, scale.seed)
        rows = [run(kind, scale, scratch / kind.name, material, reaper, mark) for kind in kinds]
        record(place / "chaos.csv", rows)
        show(rows)
    sys.exit(1 if any(row.troubles for row in rows) else 0)


def arguments() -> tuple[Scale, Path | None, Path | None]:
    """What the command line asks for, the folder for the table and that for the logs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one machine, few clients, a handful of events")
    parser.add_argument("--setup", choices=list(SETUPS), help="only this one")
    parser.add_argument("--events", type=int, help=f"other than {EVENTS}, or 4 with --quick")
    parser.add_argument("--seed", type=int, default=1, help="of the schedule, the uploads and the clients' choices")
    parser.add_argument("--clients", type=int, help=f"other than {CLIENTS}, or 6 with --quick")
    parser.add_argument("--gap", type=float, help=f"seconds between events, other than {GAP:g}, or 1 with --quick")
    parser.add_argument("--models", type=int, help=f"uploaded at once afterwards: {MODELS}, or none with --quick")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds in which everything has to end afterwards")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the table goes")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="where all else goes; build/chaos/logs")
    given = parser.parse_args()
    quick = given.quick

    def chosen(value: int | None, small: int, full: int) -> int:
        return value if value is not None else small if quick else full

    scale = Scale(
        (given.setup,) if given.setup else (setups.Machine.name,) if quick else tuple(SETUPS),
        chosen(given.events, 4, EVENTS),
        given.seed,
        chosen(given.clients, 6, CLIENTS),
        given.gap if given.gap is not None else 1.0 if quick else GAP,
        2.0 if quick else faults.LONGEST_FREEZE,
        chosen(given.models, 0, MODELS),
        given.limit,
        *((1, 1) if quick else (3, 8)),
    )
    logs = given.logs or (None if quick else ROOT / "build" / "chaos" / "logs")
    return scale, given.results, logs


def run(kind: type[Setup], scale: Scale, folder: Path, material: Material, reaper: Reaper, mark: str) -> Row:
    """One set-up: load and faults, the verdict, and then many models at once."""
    schedule = faults.draw(scale.seed, scale.events, kind.targets, scale.gap, scale.longest)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "schedule.txt").write_text("".join(f"{event}\n" for event in schedule))
    say(f"\n{kind.name}: {scale.events} events, seed {scale.seed}; logs in {folder}")
    for event in schedule:
        say(f"  {event}")
    journal = Journal(folder / "clients")
    with setups.running(kind, folder / "chaos", reaper, mark) as setup:
        say(f"{journal.now():8.2f} s  ready {setup.versions()}")
        before, seconds = load(setup, scale, schedule, journal, material)
        up(setup, journal)
        say(f"{journal.now():8.2f} s  the faults are over; waiting for {len(journal.open())} operations")
        settled = settle.settle(setup.urls, journal, scale.seed, scale.limit)
        say(f"{journal.now():8.2f} s  settled")
        verdict.files(journal)
        verdict.ends(journal)
        verdict.models(setup, journal, scale.seed)
        verdict.answers(journal)
        after = verdict.processes(setup, journal, before)
        disk = verdict.disk(setup, journal)
        say(f"{journal.now():8.2f} s  looked at; stopping")
        if left := setup.stop():
            journal.trouble("left-running", "verdict", ", ".join(" ".join(each.command) for each in left))
    many, worked = at_once(kind, scale, folder, material, reaper, mark, journal) if scale.models else (0.0, 0.0)
    uploads = list(journal.uploads.values())
    row = Row(
        setup=kind.name,
        events=len(journal.faults),
        seed=scale.seed,
        clients=scale.clients,
        seconds=round(seconds, 1),
        requests=len(journal.answers),
        unanswered=len(journal.silences),
        busy=sum(answer.status == 503 for answer in journal.answers),
        accepted=len(uploads) + len(journal.cuts),
        ready=sum(each.ready for each in uploads),
        failed=sum(bool(each.error) and not (each.deleted or each.cancelled) for each in uploads),
        taken_back=sum(each.deleted or each.cancelled for each in uploads),
        files=len(journal.received),
        settled=round(settled, 1),
        store=disk.total,
        spare=disk.spare,
        api_before=before.resident.get("api", 0) >> 20,
        api_after=after.resident.get("api", 0) >> 20,
        worker_before=before.resident.get("worker", 0) >> 20,
        worker_after=after.resident.get("worker", 0) >> 20,
        models=scale.models,
        models_ready=round(many, 1),
        models_cpu=round(worked, 1),
        troubles=len(journal.troubles),
    )
    report(journal, row, disk, folder)
    journal.close()
    return row


def load(
    setup: Setup, scale: Scale, schedule: Sequence[faults.Event], journal: Journal, material: Material
) -> tuple[verdict.Before, float]:
    """Clients at work, and after a while the faults; what ran before these, and how many seconds all of it took."""
    stop = threading.Event()
    first = publisher("first", setup, journal, scale, material, stop)
    with first.http:
        for number in range(scale.first):
            first.publish(material.sound(FIRST + number))
        settle.wait_for_ends(first, journal, time.monotonic() + scale.limit)
    say(f"{journal.now():8.2f} s  {scale.first} models are there; {scale.clients} clients begin")
    began = time.monotonic()
    crowd = clients.crowd(setup.urls, journal, material, scale.seed, scale.clients, scale.most, stop)
    threads = [threading.Thread(target=client.run, name=client.name, daemon=True) for client in crowd]
    try:
        for thread in threads:
            thread.start()
        time.sleep(min(WARM_SECONDS, 2 * scale.gap))
        before = verdict.Before.of(setup)
        faults.inflict(schedule, setup, journal, stop)
    finally:
        stop.set()
    for thread in threads:
        thread.join(2 * float(clients.PATIENCE.read or 0))
        if thread.is_alive():
            journal.trouble("harness", thread.name, "this client has not come to its end")
    return before, time.monotonic() - began


def publisher(
    name: str, setup: Setup, journal: Journal, scale: Scale, material: Material, stop: threading.Event
) -> clients.Publisher:
    """One that uploads what it is given."""
    none: Iterator[int] = iter(())
    return clients.Publisher(name, setup.urls, journal, scale.seed, stop, material=material, numbers=none, most=0)


def up(setup: Setup, journal: Journal) -> None:
    """Nothing is frozen or away any more; what is not ready then is trouble."""
    try:
        setup.ready(setups.START_SECONDS)
    except RuntimeError as error:
        journal.trouble("not-ready", "faults", str(error))


def at_once(
    kind: type[Setup], scale: Scale, folder: Path, material: Material, reaper: Reaper, mark: str, journal: Journal
) -> tuple[float, float]:
    """Seconds until so many small models, uploaded at once to a fresh service, are ready; and the seconds of processor
    time that all processes of it took, from their start to their end."""
    mine = Journal(folder / "clients-at-once")
    before = os.times()
    with setups.running(kind, folder / "at-once", reaper, mark) as setup:
        stop = threading.Event()
        say(f"{journal.now():8.2f} s  a fresh one is ready; {scale.models} uploads at once")
        began = time.monotonic()

        def publish(number: int) -> Accepted | None:
            client = publisher(f"publisher-{number}", setup, mine, scale, material, stop)
            with client.http:
                return client.publish(material.sound(MANY + number, options=""))

        with ThreadPoolExecutor(scale.clients) as pool:
            accepted = list(pool.map(publish, range(scale.models)))
        watcher = clients.Client("watcher", setup.urls, mine, scale.seed, stop)
        settle.wait_for_ends(watcher, mine, began + scale.limit)
        seconds = time.monotonic() - began
        watcher.http.close()
    for each in accepted:
        if each is None:
            journal.trouble("sound-upload-refused", "verdict", f"one of {scale.models} models at once")
        elif each.end is None:
            journal.trouble("never-ended", "verdict", f"{each.title}, of {scale.models} at once, in {scale.limit:g} s")
        elif each.error:
            journal.trouble("failed-without-a-fault", "verdict", f"{each.title}, one of many at once: {each.error}")
    mine.close()
    after = os.times()
    worked = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, worked


def report(journal: Journal, row: Row, disk: verdict.Disk, folder: Path) -> None:
    """What came of a set-up: each trouble with what its client saw and which faults there were just before."""
    lines = [f"{row.setup}: {row.troubles} troubles"]
    codes = Counter((answer.method, answer.route, answer.status) for answer in journal.answers)
    lines += ["", "answers"]
    lines += [f"  {count:6}  {status} {method} {route}" for (method, route, status), count in sorted(codes.items())]
    silences = Counter((each.method, each.route, each.error.split(":")[0]) for each in journal.silences)
    lines += ["", "no answers"]
    lines += [f"  {count:6}  {method} {route}: {error}" for (method, route, error), count in sorted(silences.items())]
    lines += ["", "how uploads and sizes ended"]
    endings = Counter((each.kind, each.error or "done") for each in [*journal.uploads.values(), *journal.cuts.values()])
    lines += [f"  {count:6}  {kind}: {end}" for (kind, end), count in sorted(endings.items())]
    if disk.leftovers:
        lines += ["", "leftovers", *(f"  {key}" for key in disk.leftovers)]
    if unexpected := tracebacks(folder / "chaos" / "logs"):
        lines += ["", "tracebacks in the service's logs"]
        lines += [f"  {count:6}  {error}" for error, count in unexpected.most_common(20)]
    told: Counter[str] = Counter()
    kinds = Counter(trouble.kind for trouble in journal.troubles)
    lines += ["", "troubles", *(f"  {count:6}  {kind}" for kind, count in kinds.most_common())]
    brief = list(lines)
    for trouble in sorted(journal.troubles, key=lambda each: (each.kind, each.at)):
        told[trouble.kind] += 1
        before = [fault for fault in journal.faults if fault.at <= trouble.at][-4:]
        block = [
            "",
            f"{trouble.kind} at {trouble.at:.3f} s, {trouble.client}: {trouble.what}",
            *(f"    {fault.at:9.3f} {fault.action} {fault.target} until {fault.until:.3f}" for fault in before),
            *(f"    | {line}" for line in journal.around(trouble.client, trouble.at)),
            *(f"    : {line}" for model in MODEL.findall(trouble.what)[:1] for line in journal.about(model)),
        ]
        lines += block
        if told[trouble.kind] <= TOLD:
            brief += block
    (folder / "report.txt").write_text("\n".join(lines) + "\n")
    say("\n".join(brief))
    say(f"\nall of it: {folder / 'report.txt'}")


def tracebacks(logs: Path) -> Counter[str]:
    """How often each error ends a traceback."""
    found: Counter[str] = Counter()
    for path in logs.glob("*.log"):
        for trace in path.read_text(errors="replace").split("Traceback (most recent call last):")[1:]:
            if match := ERROR.search(trace):
                found[re.sub(r" connecting to .*| \S*://\S*", "", match[1])] += 1
    return found


def record(path: Path, rows: Sequence[Row]) -> None:
    """Puts the rows into the table, in place of those of the same set-ups."""
    table = results.Table(path, Row)
    new = {row.setup for row in rows}
    others = [row for row in table.rows if row.setup not in new]
    path.unlink(missing_ok=True)
    table = results.Table(path, Row)
    for row in [*others, *rows]:
        table.add(row)


def show(rows: Sequence[Row]) -> None:
    """Both set-ups beside each other."""
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for field in dataclasses.fields(Row):
        cells = (getattr(row, field.name) for row in rows)
        print(f"{field.name.replace('_', ' '):<16}" + "".join(f"{cell:>14}" for cell in cells))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def kept(logs: Path | None) -> Iterator[Path]:
    """The folder for everything besides the table; without one, another that is thrown away."""
    if logs is None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    else:
        logs.mkdir(parents=True, exist_ok=True)
        yield logs.absolute()


@contextmanager
def guard(mark: str) -> Iterator[None]:
    """Another process that ends everything with the mark once this one is gone, in whatever way."""
    command = [sys.executable, "-m", "benchmarks.chaos.guard", str(os.getpid()), mark]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    try:
        yield
    finally:
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    main()
