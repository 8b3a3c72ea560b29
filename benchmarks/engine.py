"""What the job engine is chosen for, measured: real workers, real Valkey, jobs that only sleep.

    python -m benchmarks.engine [--quick] [--results FOLDER]

Each row is one thing that counts (ARCHITECTURE.md): what was done, how often, and what came of it. The rows are kept in
engine.csv in docs/results; with --quick, which does the quick half less often, in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import results
from rightrank.models.checkpoint.readers import Readers
from rightrank.service.jobs import engine
from rightrank.service.jobs.attempt import Job, Runner
from rightrank.service.jobs.dispatch import CANCELLED, Parts
from rightrank.service.jobs.engine import BACKGROUND, INGEST, QUEUES, WAITING
from rightrank.service.run.valkey import Embedded
from rightrank.service.settings import Settings

FILE = "engine.csv"
MODEL = "m" + "0" * 24
STARTS = "bench:starts"
# Seconds until nothing more can be expected.
LIMIT = 60.0


def sleep(job: Job) -> dict[str, Any]:
    """The job of these workers: says that it has begun, and sleeps."""
    job.parts.cache.redis.rpush(STARTS, f"{job.operation} {time.monotonic():.6f} {os.getpid()}")
    ends = time.monotonic() + float(job.details["sleep"])
    while time.monotonic() < ends:
        job.progress("sleep", 0, 0, "")
        time.sleep(0.01)
    return {}


def work(data: str) -> None:
    """A worker process: until it is killed, or asked to end."""
    runner = Runner(
        Parts.of(Settings.model_validate({"data": Path(data)}), patient=True),
        {"ingest": sleep, "cut": sleep},
        Readers(Path(data)),
    )
    signal.signal(signal.SIGTERM, lambda *_: runner.stop.set())
    thread = threading.Thread(target=runner.work, args=(QUEUES,), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)


@dataclass(frozen=True)
class Row:
    """What counts, what was done how many times to see it, and what came of it."""

    counts: str
    done: str
    times: int
    result: str


class Bench:
    """One Valkey, some workers, and what is asked of them."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.parts = settings, Parts.of(settings)
        self.workers: list[subprocess.Popen[bytes]] = []

    @contextlib.contextmanager
    def staff(self, number: int) -> Iterator[None]:
        """So many workers meanwhile, over an empty Valkey."""
        self.parts.cache.redis.flushdb()
        for _ in range(number):
            self.hire()
        try:
            for n in range(number):
                self.send(f"ready-{n}", 0.5)
            self.starts(number)
            until(lambda: not self.parts.cache.redis.zcard("rightrank:leases"))
            self.parts.cache.redis.delete(STARTS)
            yield
        finally:
            for worker in self.workers:
                worker.kill()
                worker.wait()
            self.workers.clear()

    def hire(self) -> subprocess.Popen[bytes]:
        command = "from benchmarks.engine import work; import sys; work(sys.argv[1])"
        self.workers.append(subprocess.Popen([sys.executable, "-c", command, str(self.settings.data)]))
        return self.workers[-1]

    def send(self, id: str, seconds: float, queue: str = WAITING) -> None:
        self.parts.engine.send(f"cut-{id}", queue, {"model": MODEL, "sleep": seconds})

    def starts(self, number: int) -> list[tuple[str, float, int]]:
        """The starts of jobs, once there are so many: which, when, by whom."""
        until(lambda: self.parts.cache.redis.llen(STARTS) >= number)
        lines = [line.decode().split() for line in self.parts.cache.redis.lrange(STARTS, 0, -1)]
        return [(name.removeprefix("cut-"), float(when), int(pid)) for name, when, pid in lines]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what the engine was to do did not come about")
        time.sleep(0.005)


def spread(seconds: Sequence[float]) -> str:
    return f"median {statistics.median(seconds):.2f} s, most {max(seconds):.2f} s"


def order(bench: Bench, each: int) -> tuple[str, int, str]:
    with bench.staff(1):
        bench.send("first", 1.0)
        bench.starts(1)
        for queue in (BACKGROUND, INGEST, WAITING):
            for n in range(each):
                bench.send(f"{queue}{n}", 0.0, queue)
        names = [name for name, *_ in bench.starts(1 + 3 * each)[1:]]
    wanted = [f"{queue}{n}" for queue in QUEUES for n in range(each)]
    wrong = sum(name != other for name, other in zip(names, wanted, strict=True))
    return "sent in the opposite order while the one worker was busy", 3 * each, f"{wrong} out of order"


def behind(bench: Bench, each: int) -> tuple[str, int, str]:
    with bench.staff(2):
        bench.send("long", 4.0)
        ((_, began, _),) = bench.starts(1)
        for n in range(each):
            bench.send(f"short{n}", 0.01)
        last = max(when for name, when, _ in bench.starts(1 + each) if name != "long")
    return (
        "short jobs behind a long one, two workers",
        each,
        f"all begun {last - began:.2f} s after the long one (4 s)",
    )


def killed(bench: Bench, times: int) -> tuple[str, int, str]:
    waits = []
    with bench.staff(2):
        for n in range(times):
            bench.send(f"killed{n}", 0.5)
            name, _, pid = bench.starts(2 * n + 1)[-1]
            when = time.monotonic()
            next(worker for worker in bench.workers if worker.pid == pid).kill()
            waits.append(bench.starts(2 * n + 2)[-1][1] - when)
            bench.hire()
            until(lambda: bench.parts.engine.get(f"cut-{name}").done)  # type: ignore[union-attr]  # noqa: B023
    return "kill -9 of a job's worker, another one idle", times, f"running again: {spread(waits)}"


def restarted(bench: Bench, times: int) -> tuple[str, int, str]:
    waits = []
    for n in range(times):
        with bench.staff(1):
            bench.send(f"restarted{n}", 0.5)
            bench.starts(1)
            when = time.monotonic()
            bench.workers[0].kill()
            bench.hire()
            waits.append(bench.starts(2)[-1][1] - when)
    return "kill -9 of the only worker, another one started", times, f"running again: {spread(waits)}"


def outlasting(bench: Bench, leases: float) -> tuple[str, int, str]:
    with bench.staff(2):
        bench.send("long", leases * engine.LEASE_SECONDS)
        bench.starts(1)
        until(lambda: bench.parts.engine.get("cut-long").done)  # type: ignore[union-attr]
        count = len(bench.starts(1))
    return f"a job of {leases:g} leases, two workers", 1, f"{count} start"


def once(bench: Bench, times: int) -> tuple[str, int, str]:
    with bench.staff(2), ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: bench.send("same", 0.5), range(times)))
        time.sleep(1.0)
        count = len(bench.starts(1))
    return "sends of one operation, from eight threads", times, f"{count} start"


def cancelled(bench: Bench, times: int) -> tuple[str, int, str]:
    told, free = [], []
    with bench.staff(1):
        for n in range(times):
            bench.send(f"cancelled{n}", 30.0)
            bench.starts(2 * n + 1)
            when = time.monotonic()
            bench.parts.engine.cancel(f"cut-cancelled{n}", CANCELLED)
            told.append(time.monotonic() - when)
            bench.send(f"next{n}", 0.0)
            free.append(bench.starts(2 * n + 2)[-1][1] - when)
    return "cancel of a running job", times, f"ended after {max(told):.3f} s at most, the worker free: {spread(free)}"


def stopped(bench: Bench, each: int) -> tuple[str, int, str]:
    with bench.staff(2):
        for n in range(each):
            bench.send(f"back{n}", 2.0, BACKGROUND)
        bench.starts(2)
        for worker in list(bench.workers):  # one after the other, as a rolling restart
            worker.terminate()
            worker.wait()
            bench.hire()
        bench.send("device", 0.0)
        ahead = [name for name, *_ in bench.starts(each + 1)].index("device")
        until(lambda: not bench.parts.cache.redis.zcard("rightrank:leases"))
        tries = Counter(name for name, *_ in bench.starts(each + 1))
    again = sum(count - 1 for name, count in tries.items() if name != "device")
    return (
        f"a rolling restart over {each} background jobs, then a device's",
        1,
        f"{again} begun again; {ahead} were begun before the device's",
    )


def latency(bench: Bench, times: int) -> tuple[str, int, str]:
    waits = []
    with bench.staff(1):
        for n in range(times):
            time.sleep(0.02)
            when = time.monotonic()
            bench.send(f"quick{n}", 0.0)
            waits.append(bench.starts(n + 1)[-1][1] - when)
    return "a job for an idle worker", times, f"begun after {1000 * statistics.median(waits):.1f} ms (median)"


def forgotten(bench: Bench, times: int) -> tuple[str, int, str]:
    again = 0
    for n in range(times):
        with bench.staff(2):
            bench.send(f"kept{n}", 3.0)
            bench.starts(1)
            bench.parts.cache.redis.flushdb()
            time.sleep(1.0)
            bench.send(f"kept{n}", 3.0)
            until(lambda: bench.parts.engine.get(f"cut-kept{n}").done)  # type: ignore[union-attr]  # noqa: B023
            again += bench.parts.cache.redis.llen(STARTS)
    return "Redis forgot everything amid a job, which was sent again", times, f"{again} begun twice"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description="What the job engine does.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args(arguments)
    few = given.quick
    with tempfile.TemporaryDirectory() as data, results.place(few, given.results) as folder:
        settings = Settings.model_validate({"data": Path(data)})
        (folder / FILE).unlink(missing_ok=True)
        table = results.Table(folder / FILE, Row)
        with Embedded(settings):
            bench = Bench(settings)
            table.add(Row("a device first, then a publisher", *order(bench, 2 if few else 10)))
            table.add(Row("nothing behind a long job", *behind(bench, 5 if few else 50)))
            table.add(Row("one operation, one job", *once(bench, 20 if few else 200)))
            table.add(Row("cancel", *cancelled(bench, 1 if few else 10)))
            table.add(Row("no waiting", *latency(bench, 10 if few else 100)))
            if not few:
                table.add(Row("a killed worker's job within 10 s", *killed(bench, 10)))
                table.add(Row("the same with one worker", *restarted(bench, 5)))
                table.add(Row("no double start of a long job", *outlasting(bench, 5)))
                table.add(Row("a restart changes no order", *stopped(bench, 6)))
                table.add(Row("a Redis that forgets", *forgotten(bench, 5)))
        print(results.machine())
        for row in table.rows:
            print(f"{row.counts:<34} {row.done} ({row.times} x): {row.result}")


if __name__ == "__main__":
    main()
