"""Serving what is ready, against servers that do nothing else; and what an upload costs in memory.

    python -m benchmarks.serving [--quick]

* GET / nginx      warm GETs of one artifact per second, against nginx sending the same file by sendfile
* 304 / Starlette  revalidations per second, against a Starlette route that answers 304 and does nothing else
* upload memory    the most memory of the API's process during an upload, less what it takes when idle

Real processes: the service as `rightrank serve` starts it, over an empty folder. Ratios of medians, the two
sides in turn. What cannot be measured here is None, and `not measured` says why.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks import load, processes, programs
from rightrank.service.client.http import Client, Problem

MB = 1_000_000
BUDGET = 0.4


@dataclass(frozen=True)
class Scale:
    """How much is measured: the network's hidden width, the upload's bytes, and for how long how often.

    A width of 1024 at `BUDGET` makes an artifact of 5 MB.
    """

    width: int = 1024
    upload: int = 1000 * MB
    seconds: int = 5
    rounds: int = 3


FULL = Scale()
QUICK = Scale(width=256, upload=64 * MB, seconds=1, rounds=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a small artifact, a small upload, one second each")
    quick = parser.parse_args().quick
    found = measure(QUICK if quick else FULL)
    print(json.dumps(found, indent=2))
    complain(found)


def complain(found: dict[str, Any]) -> None:
    """Says on standard error what was not measured."""
    if found.get("load generator") == "benchmarks.load":
        print("NO WRK: a client in Python made the requests (Debian: apt install wrk)", file=sys.stderr)
    for figure, reason in found["not measured"].items():
        print(f"NOT MEASURED: {figure}: {reason}", file=sys.stderr)


def measure(scale: Scale) -> dict[str, Any]:
    """All the figures, from one run of the service."""
    with tempfile.TemporaryDirectory(prefix="rightrank-") as name:
        folder = Path(name)
        with processes.rightrank(folder / "data") as (client, api):
            url, etag = publish(client, scale, folder)
            found: dict[str, Any] = {
                "served_bytes": (folder / "artifact").stat().st_size,
                "load generator": load.generator(),
                "not measured": {},
            }
            found |= gets(url, folder, scale, found["not measured"])
            found |= revalidations(url, etag, scale)
            found |= upload(client, api, folder, scale.upload, found["not measured"])
    return found


def publish(client: Client, scale: Scale, folder: Path) -> tuple[str, str]:
    """Publishes a network and has it cut; the artifact's URL and ETag. The bytes are left in `artifact`."""
    arguments = {"in_features": scale.width, "hidden": [scale.width] * 3, "num_classes": 10}
    programs.export(programs.build("mlp", arguments), programs.input_shape("mlp", arguments), folder / "mlp.pt2")
    pushed = client.push(folder / "mlp.pt2")
    client.wait(pushed["operation"])
    headers = client.pull(pushed["id"], {"budget": BUDGET}, folder / "artifact")
    return f"{client.url}/models/{pushed['id']}?budget={BUDGET}", headers["etag"]


def gets(url: str, folder: Path, scale: Scale, missing: dict[str, str]) -> dict[str, float | None]:
    """Whole artifacts per second, beside nginx with the same file."""
    if processes.find_nginx() is None:
        missing["GET / nginx"] = "there is no nginx (Debian: apt install nginx)"
        ours = statistics.median(load.rate(url, scale.seconds) for _ in range(scale.rounds))
        return {"GET, per s": round(ours, 1), "nginx GET, per s": None, "GET / nginx": None}
    work, root = folder / "nginx", folder / "root"
    work.mkdir()
    root.mkdir()
    (root / "artifact").hardlink_to(folder / "artifact")
    with processes.nginx(root, work) as address:
        ours, theirs = alternate(
            lambda: load.rate(url, scale.seconds),
            lambda: load.rate(f"{address}/artifact", scale.seconds),
            scale.rounds,
        )
    return {
        "GET, per s": round(ours, 1),
        "nginx GET, per s": round(theirs, 1),
        "GET / nginx": round(ours / theirs, 3),
    }


def revalidations(url: str, etag: str, scale: Scale) -> dict[str, float]:
    """304s per second, beside a route that does nothing else."""
    headers = {"If-None-Match": etag}
    status = httpx.get(url, headers=headers, trust_env=False).status_code
    if status != 304:
        raise RuntimeError(f"If-None-Match was answered with {status}")
    with processes.bare() as address:
        ours, theirs = alternate(
            lambda: load.rate(url, scale.seconds, headers),
            lambda: load.rate(f"{address}/", scale.seconds, headers),
            scale.rounds,
        )
    return {
        "304, per s": round(ours, 1),
        "Starlette 304, per s": round(theirs, 1),
        "304 / Starlette": round(ours / theirs, 3),
    }


def upload(client: Client, api: int, folder: Path, size: int, missing: dict[str, str]) -> dict[str, float | None]:
    """The API's peak memory during an upload of `size` bytes, less its memory before. It is no model."""
    path = folder / "zeros"
    with path.open("wb") as file:
        file.truncate(size)
    settled = memory(api, "VmRSS")
    try:
        Path(f"/proc/{api}/clear_refs").write_text("5")
    except OSError as error:
        missing["upload memory, MB"] = f"the peak memory of a process cannot be reset here ({error})"
        return {"upload_bytes": size, "upload memory, MB": None, "idle memory, MB": round(settled / MB, 1)}
    began = time.monotonic()
    pushed = client.push(path)
    seconds = time.monotonic() - began
    peak = memory(api, "VmHWM")
    with contextlib.suppress(Problem):
        client.wait(pushed["operation"])
    return {
        "upload_bytes": size,
        "upload memory, MB": round((peak - settled) / MB, 1),
        "idle memory, MB": round(settled / MB, 1),
        "upload, MB/s": round(size / MB / seconds, 1),
    }


def memory(process: int, field: str) -> int:
    """Bytes that `/proc/<process>/status` gives for a field."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"/proc/{process}/status has no {field}")


def alternate(one: Callable[[], float], other: Callable[[], float], rounds: int) -> tuple[float, float]:
    """The median of each, taken in turn so that drift hits both alike."""
    pairs = [(one(), other()) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


if __name__ == "__main__":
    main()
