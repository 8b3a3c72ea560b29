"""`rightrank serve`: one process that starts the others, replaces those that die, and stops them in order.

serve ─┬─ Valkey       unless RIGHTRANK_REDIS_URL names one; a killed serve leaves it to the next one
       ├─ worker × N   die with serve
       └─ API          dies with serve; inherits the listening socket, so its restart refuses nobody
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rightrank.service.client.http import Client
from rightrank.service.run.processes import GRACE, TICK, Child, Say, StartError, Supervisor, module, signals, threads
from rightrank.service.run.valkey import Embedded
from rightrank.service.run.welcome import demonstrate
from rightrank.service.settings import Settings


def serve(settings: Settings, workers: int, demo: bool, say: Say) -> None:
    """Runs the service until a signal ends it. StartError if it cannot start."""
    with sole(settings.data), contextlib.closing(listen(settings.host, settings.port)) as listener:
        address = web_address(listener)
        with valkey(settings):
            supervisor = Supervisor(*children(settings, listener, workers), say)
            guest = threading.Thread(target=demonstrate, args=(address, supervisor.end, say), daemon=True)

            def greet() -> None:
                say(f"RightRank is ready on {address}")
                if demo:
                    guest.start()

            with signals(supervisor.on_signal), Client(address) as client:
                supervisor.run(client.ready, greet)
            if guest.ident is not None:
                guest.join(GRACE)


def children(settings: Settings, listener: socket.socket, workers: int) -> tuple[Child, list[Child]]:
    """The API and the workers, not yet started."""
    environment = {
        "RIGHTRANK_DATA": str(settings.data.absolute()),
        "RIGHTRANK_HOST": settings.host,
        "RIGHTRANK_PORT": str(listener.getsockname()[1]),
    }
    descriptor = listener.fileno()
    api = Child("The API", module("api", str(descriptor)), environment, (descriptor,))
    computing = {**environment, "OMP_NUM_THREADS": threads(workers)}
    return api, [
        Child(f"Worker {number}", module("worker", *options), computing)
        for number, options in enumerate(duties(workers), 1)
    ]


@contextlib.contextmanager
def valkey(settings: Settings) -> Iterator[None]:
    """Keeps Valkey running meanwhile, where it is this service's own."""
    with contextlib.ExitStack() as stack:
        if settings.embedded:
            try:
                stack.enter_context(Embedded(settings))
            except (RuntimeError, OSError) as error:
                raise StartError(str(error)) from error
        yield


def duties(workers: int) -> list[tuple[str, ...]]:
    """The options of each worker. The first of several ingests nothing: a device never waits for publishers."""
    everything: tuple[str, ...] = ()
    devices = ("--queues", "waiting,background")
    return [devices if n == 0 and workers > 1 else everything for n in range(workers)]


def web_address(listener: socket.socket) -> str:
    """Where this machine reaches what listens."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def sole(data: Path) -> Iterator[None]:
    """Holds `data` for this process; StartError if another one does.

    The kernel lets go of the lock when the process ends, however it ends.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / "lock").open("a+")
    except OSError as error:
        raise StartError(f"{data} cannot be used as the data folder: {error.strerror}.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise StartError(
                f"{data} is in use by another `rightrank serve` (process {owner}). "
                "Stop that one, or give this one another folder with --data."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one. StartError if the address cannot be had."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise StartError(f"{host} is not an address of this machine: {error.strerror}.") from error
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bind(listener, address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise StartError(
            f"Port {port} of {host} cannot be listened on: {error.strerror}. Choose another with --port."
        ) from error
    return listener


def bind(listener: socket.socket, address: tuple[Any, ...]) -> None:
    """Binds, with a moment's patience: a killed serve's API holds the port until it is gone too."""
    for _ in range(10):
        try:
            return listener.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            time.sleep(TICK)
    listener.bind(address)
