"""Requests per second of one URL over kept-alive connections: by wrk, or by this module where wrk is missing.

python -m benchmarks.load URL CONNECTIONS SECONDS [NAME:VALUE …]
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

CONNECTIONS = 8
PIECE = 1 << 20
RATE = re.compile(r"^Requests/sec:\s*([0-9.]+)", re.MULTILINE)
FAILURES = re.compile(r"^\s*(Non-2xx or 3xx responses|Socket errors):.*", re.MULTILINE)


def generator() -> str:
    """What will make the requests."""
    return "wrk" if shutil.which("wrk") else "benchmarks.load"


def rate(url: str, seconds: int, headers: Mapping[str, str] | None = None) -> float:
    """Requests per second, made by another process. Raises `RuntimeError` where any of them fails."""
    fields = [f"{name}: {value}" for name, value in (headers or {}).items()]
    if shutil.which("wrk"):
        named = [word for field in fields for word in ("-H", field)]
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s", *named, url]
    else:
        command = [sys.executable, "-m", "benchmarks.load", url, str(CONNECTIONS), str(seconds), *fields]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
    found = RATE.search(done.stdout)
    if done.returncode or found is None or FAILURES.search(done.stdout):
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return float(found[1])


async def generate(url: str, connections: int, seconds: float, fields: Sequence[str]) -> float:
    """Requests per second over so many connections for so long."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    address = (parts.hostname, parts.port or 80)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = (f"GET {target or '/'} HTTP/1.1", f"Host: {parts.netloc}", *fields)
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    began = time.monotonic()
    counts = await asyncio.gather(*(connection(address, request, began + seconds) for _ in range(connections)))
    return sum(counts) / (time.monotonic() - began)


async def connection(address: tuple[str, int], request: bytes, deadline: float) -> int:
    """Requests, one after the other until the deadline; how many."""
    reader, writer = await asyncio.open_connection(*address, limit=PIECE)
    count = 0
    while time.monotonic() < deadline:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status, *headers = head.decode("latin-1").split("\r\n")
        if status.split()[1] not in ("200", "304"):
            raise RuntimeError(status)
        length = next((int(h.split(":")[1]) for h in headers if h.lower().startswith("content-length:")), 0)
        left = length if status.split()[1] == "200" else 0
        while left:
            piece = await reader.read(min(left, PIECE))
            if not piece:
                raise RuntimeError("the server closed the connection within a body")
            left -= len(piece)
        count += 1
    writer.close()
    return count


if __name__ == "__main__":
    rate_ = asyncio.run(generate(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))
    print(f"Requests/sec: {rate_:.2f}")
