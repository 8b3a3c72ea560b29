"""schemathesis against the description that the service gives of itself, and a service that runs.

    python -m tests.description [EXAMPLES] [SEED]

EXAMPLES is how many requests are made up for each operation; links are followed from every answer that has them. First
without keys, with a worker and a model; then with a keys file, as who may do everything, who may fetch some models
only, and who has no key. Ends with an error where an answer is not as the description says.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from rightrank.service.api import keys
from rightrank.service.run.valkey import Embedded
from rightrank.service.settings import Settings
from tests.service.conftest import Files, Running, at_work, exported, network, serving

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
# By the module: the scripts of an environment that was moved to its place name the old one.
PROGRAM = [ROOT / "build" / "api" / "bin" / "python", "-m", "schemathesis.cli"]
EXAMPLES = 60
# What the description's examples call a model.
NAME = "digits"
SCOPES: Mapping[str, list[str]] = {"root": ["admin"], "narrow": ["fetch:other.*", "publish:other.*"]}


@dataclass(frozen=True)
class Found:
    """What one run came to."""

    who: str
    operations: int
    requests: int
    failures: int


def run(who: str, running: Running, files: Files, model: str, header: str, *arguments: str) -> Found:
    """One run as who sends `header`. What fails is printed."""
    report = files.checkpoint.parent / "report.json"
    report.unlink(missing_ok=True)
    command = [*PROGRAM, "--config-file", HERE / "schemathesis.toml", "run", f"{running.client.base_url}/openapi.json"]
    command += [*(["--header", f"Authorization: {header}"] if header else []), "--report-json-path", report]
    environment = {**os.environ, "DESCRIBED_FILES": str(files.checkpoint.parent), "DESCRIBED_KEPT": f"{model} {NAME}"}
    environment.pop("PYTHONPATH", None)
    print(f"\n{who}", flush=True)
    done = subprocess.run([*map(str, command), *arguments], cwd=ROOT, env=environment)
    if not report.exists():
        raise SystemExit(f"schemathesis ended with {done.returncode}, and no report")
    said: dict[str, Any] = json.loads(report.read_text())
    failures = sum(failure["count"] for failure in said["failures"]) + len(said["errors"])
    if done.returncode and not failures:
        raise SystemExit(f"schemathesis ended with {done.returncode}")
    return Found(who, said["operations"]["tested"], said["test_cases"]["generated"], failures)


@contextlib.contextmanager
def stocked(settings: Settings, files: Files, header: str = "") -> Iterator[tuple[Running, str]]:
    """A service with a worker and one model, and the model's id."""
    with at_work(settings), serving(settings) as running:
        if header:
            running.client.headers["Authorization"] = header
        yield running, running.publish(files, name=NAME)


def main(examples: int, seed: int) -> int:
    found: list[Found] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = exported(network(), folder)
        save_file({"inputs": load_file(files.evaluation)["inputs"]}, folder / "calibration.safetensors")
        settings = Settings(data=folder / "data", cache_bytes=64 << 20, upload_limit=8_000_000)
        settings.data.mkdir()
        secrets = {name: keys.create(folder / "keys", name, scopes) for name, scopes in SCOPES.items()}
        guarded = settings.model_copy(update={"keys_file": folder / "keys", "data": folder / "guarded"})
        guarded.data.mkdir()
        some = ["--seed", str(seed), "--max-examples"]
        with Embedded(settings):
            with stocked(settings, files) as (running, model):
                found.append(run("without keys", running, files, model, "", *some, str(examples)))
            guarded = guarded.model_copy(update={"redis_url": f"{settings.redis}?db=1"})
            with stocked(guarded, files, f"Bearer {secrets['root']}") as (running, model):
                for who, header in {
                    **{who: f"Bearer {secret}" for who, secret in secrets.items()},
                    "nobody": "",
                }.items():
                    found.append(
                        run(f"with keys: {who}", running, files, model, header, *some, str(examples // 10 + 1))
                    )
    print(f"\n{'':24}{'operations':>12}{'requests':>12}{'failures':>12}")
    for each in found:
        print(f"{each.who:24}{each.operations:12}{each.requests:12}{each.failures:12}")
    return int(any(each.failures for each in found))


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(*(numbers + [EXAMPLES, 1][len(numbers) :])))
