"""The service's processes: on one machine, and as a cluster of which every part is a process here.

machine    rightrank serve, 2 workers, its own Valkey, a folder as the store
cluster    2 × rightrank serve --workers 0, 2 × rightrank worker, a Redis server, an S3 server (SeaweedFS)

What nothing else keeps alive is started again from here. Addresses are those of this machine alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import obstore
from obstore.store import S3Store

from benchmarks.chaos import family
from benchmarks.chaos.family import MARK, Process, Reaper
from benchmarks.processes import ROOT, free_port
from rightrank.service.registry import disk
from rightrank.service.settings import MIB

START_SECONDS = 120.0
STOP_SECONDS = 40.0
TICK = 0.1
# Small, so that artifacts are evicted while others are fetched.
CACHE_BYTES = 16 * MIB
REDIS_BYTES = CACHE_BYTES + 64 * MIB
BUCKET = "rightrank"
KEY, SECRET = "chaos", "chaos-secret"
# SeaweedFS listens for its own kind on the port 10,000 above each.
GRPC = 10_000


@dataclass
class Kept:
    """A process that is started again when it has ended, not before `due`."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    due: float = 0.0
    starts: int = 0

    def tend(self, reaper: Reaper) -> None:
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            self.process, self.due = None, max(self.due, now + 0.5 if self.starts > 1 else now)
        if self.process is None and now >= self.due:
            with self.log.open("ab") as log, reaper.lock:
                self.process = subprocess.Popen(
                    self.command,
                    cwd=ROOT,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                reaper.own.add(self.process.pid)
            self.starts += 1

    def running(self) -> Process | None:
        return family.look(self.process.pid) if self.process is not None else None


class Setup(ABC):
    """Processes over a folder of their own. `mark` goes into the environment of each."""

    name = ""
    targets: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()

    def __init__(self, folder: Path, reaper: Reaper, mark: str) -> None:
        self.folder, self.reaper = folder, reaper
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("RIGHTRANK_", "AWS_"))},
            "RIGHTRANK_CACHE_BYTES": str(CACHE_BYTES),
            MARK: mark,
        }
        # As `rightrank serve` does it for its workers.
        self.environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
        self.kept: dict[str, Kept] = {}
        self.urls: list[str] = []
        self.data: list[Path] = []
        self._ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._lock = threading.Lock()

    def start(self) -> None:
        """Everything up and ready. Raises `RuntimeError` where it does not get there."""
        self._keeper.start()
        self.ready(START_SECONDS)

    def ready(self, seconds: float) -> None:
        """Waits until every API says that it is ready. Raises `RuntimeError`."""
        deadline = time.monotonic() + seconds
        while waiting := [url for url in self.urls if not answers(f"{url}/readyz")]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: {', '.join(waiting)} did not get ready; {self.logs} tells more")
            time.sleep(TICK)

    def restart(self) -> None:
        """Everything of the service stopped in order and started again; not the servers that it stands on."""
        kept = [each for each in self.kept.values() if each.name not in self.servers]
        with self._lock:
            halt([each.process for each in kept if each.process is not None])
        self.ready(START_SECONDS)

    def stop(self) -> list[Process]:
        """Ends everything in order, the servers last; what is left all the same, which is then killed."""
        self._ending.set()
        if self._keeper.ident is not None:
            self._keeper.join()
        for last in (False, True):
            kept = [each for each in self.kept.values() if (each.name in self.servers) == last]
            halt([each.process for each in kept if each.process is not None])
        left = list(self.processes().values())
        family.end(left)
        return left

    def processes(self) -> dict[int, Process]:
        """All of this set-up; those that only watch it left out."""
        return {
            pid: process
            for pid, process in family.below(os.getpid()).items()
            if "benchmarks.chaos.guard" not in process.command
        }

    def find(self, target: str) -> Process | None:
        """The process that a target's name stands for now."""
        if target in self.kept:
            return self.kept[target].running()
        found = family.roles(self.processes())
        role, _, number = target.partition(" ")
        if role == "api" and number:
            serve = self.kept[f"serve {number}"].running()
            return next((each for each in found.get("api", []) if serve and each.parent == serve.pid), None)
        pool = found.get(role, [])
        if role == "reader":
            return random.choice(pool) if pool else None
        if number:
            # The one that ingests nothing comes first.
            pool = sorted(pool, key=lambda each: ("--queues" not in each.command, each.pid))
            return pool[int(number) - 1] if len(pool) >= int(number) else None
        # The last one started has the part; one before it may hang on.
        return max(pool, key=lambda each: int(each.started), default=None)

    def pause(self, target: str, seconds: float) -> None:
        """Keeps a process that is about to be killed away for so long, where it is started from here."""
        if target in self.kept:
            self.kept[target].due = time.monotonic() + seconds

    @abstractmethod
    def objects(self) -> dict[str, int]:
        """Every key in the store, and its bytes."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """An object. Raises `FileNotFoundError`."""

    def scratch(self) -> list[str]:
        """What lies in the folders for work that has ended."""
        return [
            str(path.relative_to(self.folder))
            for data in self.data
            if (data / "tmp").is_dir()
            for path in (data / "tmp").iterdir()
            if not held(path)
        ]

    def versions(self) -> str:
        """What else runs besides the service, for the report."""
        return ""

    def keep(self, name: str, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self.kept[name] = Kept(
            name,
            command,
            {**self.environment, **(environment or {})},
            self.logs / f"{name.replace(' ', '-')}.log",
        )

    def _keep(self) -> None:
        while not self._ending.wait(TICK):
            with self._lock:
                for kept in self.kept.values():
                    kept.tend(self.reaper)


class Machine(Setup):
    """`rightrank serve` and all that it starts."""

    name = "machine"
    targets = ("serve", "api", "worker 1", "worker 2", "reader", "valkey")

    def __init__(self, folder: Path, reaper: Reaper, mark: str) -> None:
        super().__init__(folder, reaper, mark)
        port, data = free_port(), folder / "data"
        self.urls, self.data = [f"http://127.0.0.1:{port}"], [data]
        self.keep("serve", service("serve", "--port", port, "--data", data, "--workers", 2))

    def objects(self) -> dict[str, int]:
        store = self.data[0] / "store"
        found = {}
        for path in store.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    found[str(path.relative_to(store))] = path.stat().st_size
        return found

    def read(self, key: str) -> bytes:
        return (self.data[0] / "store" / key).read_bytes()


class Cluster(Setup):
    """Two APIs and two workers, each over a folder of its own, a Redis server and an S3 server."""

    name = "cluster"
    targets = ("serve 1", "api 1", "serve 2", "api 2", "worker 1", "worker 2", "reader", "redis", "s3")
    servers = ("redis", "s3")

    def __init__(self, folder: Path, reaper: Reaper, mark: str) -> None:
        super().__init__(folder, reaper, mark)
        redis_port = free_port()
        self._serve_redis(redis_port)
        s3 = self._serve_s3()
        shared = {
            "RIGHTRANK_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            "RIGHTRANK_STORE_URL": f"s3://{BUCKET}",
            "AWS_ENDPOINT_URL": s3,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
        }
        for number in (1, 2):
            port, data = free_port(), folder / f"node-{number}"
            self.urls.append(f"http://127.0.0.1:{port}")
            self.data.append(data)
            self.keep(f"serve {number}", service("serve", "--port", port, "--data", data, "--workers", 0), shared)
        for number in (1, 2):
            data = folder / f"worker-{number}"
            self.data.append(data)
            self.keep(f"worker {number}", service("worker"), {**shared, "RIGHTRANK_DATA": str(data)})
        self._s3 = S3Store(
            BUCKET,
            endpoint=s3,
            access_key_id=KEY,
            secret_access_key=SECRET,
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def start(self) -> None:
        """The servers first: the service's processes end where the store cannot be reached at their start."""
        rest = {name: self.kept.pop(name) for name in list(self.kept) if name not in self.servers}
        self._keeper.start()
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                obstore.put(self._s3, "probe", b"")
                obstore.delete(self._s3, "probe")
                break
            except Exception as error:  # obstore has an error for each way not to answer
                if time.monotonic() > deadline:
                    raise RuntimeError(f"The S3 server did not get ready; {self.logs} tells more: {error}") from error
                time.sleep(TICK)
        with self._lock:
            self.kept |= rest
        self.ready(START_SECONDS)

    def objects(self) -> dict[str, int]:
        return {entry["path"]: int(entry["size"]) for batch in obstore.list(self._s3) for entry in batch}

    def read(self, key: str) -> bytes:
        return bytes(obstore.get(self._s3, key).bytes())

    def versions(self) -> str:
        said = [
            subprocess.run([self.kept[name].command[0], word], capture_output=True, text=True).stdout
            for name, word in (("redis", "--version"), ("s3", "version"))
        ]
        return "; ".join(text.splitlines()[0].strip() if text else "?" for text in said)

    def _serve_redis(self, port: int) -> None:
        """As docker-compose.yml has it: nothing on disk, expiring artifacts evicted first."""
        options: dict[str, Any] = {
            "bind": "127.0.0.1",
            "port": port,
            "dir": self.folder,
            "save": "",
            "appendonly": "no",
            "maxmemory": REDIS_BYTES,
            "maxmemory-policy": "volatile-ttl",
        }
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        self.keep("redis", [program("redis-server"), *words])

    def _serve_s3(self) -> str:
        """SeaweedFS in one process; its address."""
        folder = self.folder / "s3"
        folder.mkdir()
        identity = {
            "name": KEY,
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        configuration = self.folder / "s3.json"
        configuration.write_text(json.dumps({"identities": [identity]}))
        ports = s3_ports(4)
        options: dict[str, Any] = {
            "dir": folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": ports[0],
            "volume.port": ports[1],
            "filer.port": ports[2],
            "s3.port": ports[3],
            "s3.config": configuration,
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "filer.localSocket": self.folder / "filer.sock",
            "s3.localSocket": self.folder / "s3.sock",
            "volume.max": 32,
            "master.volumeSizeLimitMB": 256,
            "master.telemetry": "false",
        }
        words = [f"-{name}={value}" for name, value in options.items()]
        self.keep("s3", [program("weed"), "server", "-s3", *words])
        return f"http://127.0.0.1:{ports[3]}"


SETUPS: dict[str, type[Setup]] = {setup.name: setup for setup in (Machine, Cluster)}


@contextlib.contextmanager
def running(kind: type[Setup], folder: Path, reaper: Reaper, mark: str) -> Iterator[Setup]:
    """The set-up ready for requests; nothing of it runs afterwards."""
    setup = kind(folder, reaper, mark)
    try:
        setup.start()
        yield setup
    finally:
        setup.stop()


def service(*words: object) -> list[str]:
    """The command line of a command of the service."""
    return [sys.executable, "-m", "rightrank.service", *map(str, words)]


def program(name: str) -> str:
    """A server's program, on the path or where `make chaos` puts it. Exits where there is none."""
    found = shutil.which(name) or shutil.which(name, path=str(ROOT / "build" / "chaos" / "bin"))
    if found is None:
        sys.exit(f"{name} is missing: apt-get install redis-server, and `make chaos` for weed.")
    return found


def halt(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks processes to end, and kills those that do not."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def s3_ports(count: int) -> list[int]:
    """Free ports of which those 10,000 above are free as well."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(11_000, 30_000)
        if port not in found and is_free(port) and is_free(port + GRPC):
            found.append(port)
    return found


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def held(folder: Path) -> bool:
    """Whether a process that lives works in the folder."""
    try:
        with disk.locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
