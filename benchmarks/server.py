"""A service of its own for a benchmark: real processes over a folder, stopped at the end."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx


@contextlib.contextmanager
def running(data: Path, workers: int = 2) -> Iterator[str]:
    """The address of a `rightrank serve` over `data`, ready to answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RIGHTRANK_")}
    command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--data", str(data)]
    command += ["--workers", str(workers)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as service:
        try:
            wait_until_ready(url, service)
            yield url
        finally:
            service.terminate()
            service.wait(60)


def wait_until_ready(url: str, service: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if service.poll() is not None:
            raise RuntimeError(f"rightrank serve ended with {service.returncode}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError("rightrank serve did not become ready")
