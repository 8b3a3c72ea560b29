"""The servers under measurement as processes of their own, over folders that go away with them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx

from rightrank.service.client.http import Client

ROOT = Path(__file__).parents[1]
PATIENCE = 120.0
NGINX_CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    default_type application/octet-stream;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@contextlib.contextmanager
def rightrank(data: Path) -> Iterator[tuple[Client, int]]:
    """`rightrank serve` with one worker and its own Valkey; a client of it, and the API's process id."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "rightrank.service",
        "serve",
        "--port",
        str(port),
        "--data",
        str(data),
        "--workers",
        "1",
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RIGHTRANK_")}
    with Client(f"http://127.0.0.1:{port}") as client, running(command, clean) as serve:
        until(client.ready, serve)
        yield client, api_process(serve.pid)


@contextlib.contextmanager
def nginx(root: Path, folder: Path) -> Iterator[str]:
    """nginx with one worker process, sending the files of `root` by sendfile; its address."""
    port, program = free_port(), find_nginx()
    assert program is not None
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX_CONFIGURATION.format(user=user, folder=folder, port=port, root=root))
    with running([program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(configuration)]) as process:
        address = f"http://127.0.0.1:{port}"
        until(lambda: answers(address), process)
        yield address


@contextlib.contextmanager
def bare() -> Iterator[str]:
    """One Starlette route that answers 304, under uvicorn as the service runs it; its address."""
    port = free_port()
    with running([sys.executable, "-m", "benchmarks.bare", str(port)]) as process:
        address = f"http://127.0.0.1:{port}"
        until(lambda: answers(address), process)
        yield address


def find_nginx() -> str | None:
    """The program; Debian keeps it outside an ordinary user's path."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def running(command: Sequence[str], environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process that is asked to end, and then ends, also when this process is."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        signal.signal(signal.SIGTERM, before)


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Waits for it. Raises `RuntimeError` where the process ends or too much time passes first."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not get ready")
        time.sleep(0.05)


def answers(address: str) -> bool:
    try:
        httpx.get(address, timeout=1.0, trust_env=False)
    except httpx.TransportError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def api_process(serve: int) -> int:
    """The process among those that `serve` started that answers HTTP."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == serve and b"api" in (folder / "cmdline").read_bytes().split(b"\0"):
                return int(folder.name)
    raise RuntimeError("the API's process was not found under /proc")
