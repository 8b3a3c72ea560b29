"""A small service without processes: a store, a Redis, what a publisher uploads, and a worker that is called by hand.

Time passes when it is asked to: leases and locks lapse, pauses end.
"""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rightrank.models import architectures
from rightrank.models.checkpoint import sandbox
from rightrank.models.plan.planner import Plan
from rightrank.service.api import uploads
from rightrank.service.api.access import Access
from rightrank.service.api.forms import Form, Upload
from rightrank.service.jobs import attempt, cut, engine, ingest
from rightrank.service.jobs.attempt import Runner
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import QUEUES
from rightrank.service.jobs.operations import ENDED, ingest_id
from rightrank.service.registry import reach
from rightrank.service.registry.cache import PREFIX, Cache
from rightrank.service.registry.pieces import digest
from rightrank.service.settings import MIB, Settings
from tests import reading
from tests.faulty_s3 import Bucket

ARGUMENTS = {"in_features": 96, "hidden": [64], "num_classes": 10}
ARCHITECTURE = {"name": "mlp", "arguments": ARGUMENTS}
FIELDS = {"architecture": json.dumps(ARCHITECTURE), "options": '{"budgets": [0.5]}'}
NAME = "net"
TRIES = 3
# In this journal Redis itself writes down every state that an operation comes to, as part of the script that sets it.
JOURNAL = f"{PREFIX}journal"
WRITTEN_DOWN = f"""
local P = '{PREFIX}'
local function call(...)
  local a = {{...}}
  for n = 3, #a - 1, 2 do
    if a[1] == 'hset' and a[n] == 'state' then redis.call('rpush', P .. 'journal', a[2] .. ' ' .. a[n + 1]) end
  end
  return redis.call(...)
end
"""


@dataclass(frozen=True)
class Files:
    """What a publisher has, and the program that the reading child makes of it."""

    checkpoint: Path
    evaluation: Path
    program: Path


def files_in(folder: Path) -> Files:
    torch.manual_seed(0)
    model = architectures.build("mlp", **ARGUMENTS).eval()
    files = Files(folder / "net.safetensors", folder / "evaluation.safetensors", folder / "program")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, files.checkpoint)
    inputs = torch.randn(24, 96)
    save_file({"inputs": inputs, "targets": model(inputs).argmax(1)}, files.evaluation)
    sandbox.prepare(
        files.checkpoint,
        files.program,
        architecture=ARCHITECTURE,
        evaluation=files.evaluation,
        readers=reading.shared(),
    )
    return files


def small_times(patch: pytest.MonkeyPatch) -> None:
    """Meanwhile nobody waits for long: what is tried again is tried at once."""
    patch.setattr(attempt, "FIRST_PAUSE", 0.0)
    patch.setattr(attempt, "TELL_SECONDS", 0.02)
    patch.setattr(attempt, "TELL_PAUSE", 0.01)
    patch.setattr(attempt, "TRIES", TRIES)
    # Reports depend on the clock: with this, only on what is reported.
    patch.setattr(attempt, "REPORT_SECONDS", float("inf"))
    patch.setattr(reach, "PAUSE_SECONDS", 0.0)
    patch.setattr(Cache, "lock", functools.partialmethod(Cache.lock, seconds=0.5))


def journalled(patch: pytest.MonkeyPatch) -> None:
    """Meanwhile every change of an operation's state is in the journal."""
    first = f"local call, P = redis.call, '{PREFIX}'"
    assert first in engine.COMMON
    patch.setattr(engine, "COMMON", engine.COMMON.replace(first, WRITTEN_DOWN))


def read_beforehand(patch: pytest.MonkeyPatch, files: Files) -> None:
    """Meanwhile the reading child has done its work already: starting one takes longer than all the rest."""

    def prepare(checkpoint: Path, out: Path, **options: Any) -> Mapping[str, bool]:
        for path in files.program.iterdir():
            shutil.copyfile(path, out / path.name)
        return {}

    patch.setattr(sandbox, "prepare", prepare)


@dataclass
class World:
    settings: Settings
    files: Files
    bucket: Bucket | None = None
    parts: Parts = field(init=False)

    def __post_init__(self) -> None:
        self.parts = self.another()

    def another(self) -> Parts:
        """The parts of another process."""
        return Parts.of(self.settings, patient=True)

    def kept(self) -> dict[str, bytes]:
        """All that is in the store."""
        return {key: self.parts.store.read(key) for key in self.parts.store.keys("")}

    def restore(self, kept: Mapping[str, bytes]) -> None:
        """As at the beginning: nothing in Redis, and in the store what was kept."""
        self.parts.cache.redis.flushdb()
        shutil.rmtree(self.settings.data, ignore_errors=True)
        root = self.settings.store_folder
        if root is None:
            assert self.bucket is not None
            self.bucket.objects = {key: (data, time.time()) for key, data in kept.items()}
        else:
            for key, data in kept.items():
                (root / key).parent.mkdir(parents=True, exist_ok=True)
                (root / key).write_bytes(data)
        self.parts = self.another()

    def upload(self, parts: Parts | None = None, name: str = NAME) -> str:
        """What POST /models does with a form; the model's id. Raises what that raises."""
        parts = parts or self.parts
        with parts.store.folder_for_work() as folder:
            form = Form(fields={**FIELDS, "name": name})
            for role, path in (("checkpoint", self.files.checkpoint), ("evaluation", self.files.evaluation)):
                copy = Path(shutil.copyfile(path, folder / role))
                form.files[role] = Upload(copy, digest(copy), copy.stat().st_size, path.name)
            # No keys: whoever asks may do anything.
            return uploads.accept(parts, form, Access(None, parts, None))["id"]  # type: ignore[arg-type]

    def plan(self, id: str, budget: float) -> Plan:
        return self.parts.catalogue.open(id).planner.plan(budget=budget)

    def lapse(self) -> None:
        """The time of all locks and leases is over, and that of everybody's pause."""
        redis = self.parts.cache.redis
        for key in redis.scan_iter(f"{PREFIX}lock:*"):
            redis.delete(key)
        for id, _ in redis.zrange(f"{PREFIX}leases", 0, -1, withscores=True):
            redis.zadd(f"{PREFIX}leases", {id: 0})
        redis.set(f"{PREFIX}looked", "9999999999")  # else whoever lives would be given another moment
        for id, _ in redis.zrange(f"{PREFIX}later", 0, -1, withscores=True):
            redis.zadd(f"{PREFIX}later", {id: 0})

    def work(self, parts: Parts | None = None) -> bool:
        """Performs one job, if there is one."""
        parts = parts or self.another()
        taken = parts.engine.take(QUEUES, rest=0)
        if taken is None:
            return False
        self.runner(parts).perform(taken)
        return True

    def runner(self, parts: Parts) -> Runner:
        return Runner(parts, {"ingest": ingest.run, "cut": cut.run}, reading.shared())

    def settle(self, most: int = 40) -> bool:
        """Works until nothing is left to do, and time passes; whether it came to that."""
        for _ in range(most):
            self.lapse()
            if not self.work() and not self.unfinished():
                return True
        return False

    def unfinished(self) -> list[str]:
        """The operations that have not ended."""
        return [id for id, states in self.history().items() if states[-1] not in ENDED]

    def history(self) -> dict[str, list[str]]:
        """For each operation, the states that it came to."""
        found: dict[str, list[str]] = {}
        for line in self.parts.cache.redis.lrange(JOURNAL, 0, -1):
            id, state = line.decode().removeprefix(f"{PREFIX}operation:").split(" ")
            found.setdefault(id, []).append(state)
        return found

    def ends(self, model: str) -> list[str]:
        """How the model's ingest has ended, each time that it did."""
        return [state for state in self.history().get(ingest_id(model), []) if state in ENDED]


def world_in(folder: Path, redis: str, files: Files, bucket: Bucket | None = None) -> World:
    """An empty world whose data are in `folder`, and whose store is `bucket` if there is one."""
    url = None if bucket is None else f"s3://{bucket.name}"
    settings = Settings(data=folder / "data", redis_url=redis, store_url=url, cache_bytes=64 * MIB, wait=0)
    world = World(settings, files, bucket)
    world.restore({})
    return world
