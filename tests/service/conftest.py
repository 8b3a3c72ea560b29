"""A running service: real Valkey, real application, real worker, and a small model to publish."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from safetensors.torch import save_file
from torch import nn

from rightrank.service.api.app import create_app
from rightrank.service.api.auth import Gate
from rightrank.service.api.wire import server_of
from rightrank.service.jobs import cut, ingest, worker
from rightrank.service.jobs.attempt import Runner
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import QUEUES
from rightrank.service.registry.model import Record
from rightrank.service.run.valkey import Embedded
from rightrank.service.settings import Settings
from tests import faulty_s3, reading


@dataclass(frozen=True)
class Files:
    """What a publisher has."""

    checkpoint: Path
    evaluation: Path


@dataclass(frozen=True)
class Running:
    """A service and how to talk to it."""

    client: httpx.Client
    parts: Parts
    gate: Gate

    def publish(self, files: Files, **fields: str) -> str:
        """Publishes and waits; the model's id."""
        answer = self.push({"checkpoint": files.checkpoint, "evaluation": files.evaluation}, **fields)
        assert answer.status_code == 202, answer.text
        assert self.end(answer.json()["operation"])["error"] is None
        return str(answer.json()["id"])

    def push(self, paths: dict[str, Path], **fields: str) -> httpx.Response:
        files = {role: (path.name, path.read_bytes()) for role, path in paths.items()}
        return self.client.post("/models", files=files, data=fields)

    def end(self, operation: str, seconds: float = 60) -> dict[str, Any]:
        """The operation once it has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state: dict[str, Any] = self.client.get(f"/operations/{operation}").json()
            if state["done"]:
                return {"error": None, "result": None} | state
            time.sleep(0.02)
        raise AssertionError(f"{operation} has not ended: {state}")

    def known(self, reference: str) -> Record:
        """A size that is ready, and that a fetch by its parameters alone means: others had it cut in more ways."""
        model = self.parts.catalogue.open(self.parts.catalogue.resolve(reference))
        records = self.parts.catalogue.records(model.id)
        return next(each for each in records if each.plan == model.planner.plan(max_params=each.plan.params))


def left(parts: Parts) -> list[str]:
    """What lies in the store, but for why uploads were refused."""
    return [key for key in parts.store.keys("") if not key.startswith("refused/")]


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings whose Valkey runs."""
    settings = Settings(data=tmp_path_factory.mktemp("valkey"), cache_bytes=64 * 1024 * 1024)
    with Embedded(settings):
        yield settings


@pytest.fixture
def settings(valkey: Settings, tmp_path: Path) -> Settings:
    """Settings with an empty store and an empty database of the Valkey that runs."""
    settings = Settings(
        data=tmp_path / "data",
        redis_url=f"{valkey.redis}?db=1",
        cache_bytes=valkey.cache_bytes,
        wait=20,
        upload_limit=8_000_000,
    )
    Parts.of(settings).cache.redis.flushdb()
    return settings


@pytest.fixture
def parts(settings: Settings) -> Parts:
    return Parts.of(settings)


@pytest.fixture
def web(settings: Settings) -> Iterator[Running]:
    """The application alone: what it queues stays queued."""
    with serving(settings) as running:
        yield running


@pytest.fixture
def working(settings: Settings) -> Iterator[Runner]:
    """A worker in this process."""
    with at_work(settings) as runner:
        yield runner


@pytest.fixture
def service(web: Running, working: Runner) -> Running:
    """The application with a worker."""
    return web


@pytest.fixture(scope="session")
def shared(valkey: Settings, files: Files) -> Iterator[Running]:
    """A service for tests that only read, with one model, called `demo`, all of whose common cuts are measured."""
    with at_work(valkey), serving(valkey) as running:
        id = running.publish(files, name="demo")
        deadline = time.monotonic() + 60
        while len(running.parts.catalogue.records(id)) < len(running.parts.catalogue.open(id).planner.possible()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield running


@pytest.fixture(scope="session")
def demo(shared: Running) -> str:
    """The id of the model in `shared`."""
    return shared.parts.catalogue.resolve("demo")


@pytest.fixture
def stocked(shared: Running, settings: Settings) -> Settings:
    """Settings whose store already has the model of `shared`, and whose Redis knows nothing of it."""
    assert shared.parts.store.root is not None and settings.store_folder is not None
    shutil.copytree(shared.parts.store.root, settings.store_folder, dirs_exist_ok=True)
    return settings


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[faulty_s3.Bucket]:
    """An empty bucket, which `s3://bucket` is meanwhile."""
    with faulty_s3.serving() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        yield bucket


@pytest.fixture
def in_bucket(stocked: Settings, bucket: faulty_s3.Bucket) -> Settings:
    """Settings whose store is `bucket`, which already has the model of `shared`."""
    folder = stocked.store_folder
    assert folder is not None
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.objects[path.relative_to(folder).as_posix()] = path.read_bytes(), path.stat().st_mtime
    return stocked.model_copy(update={"store_url": "s3://bucket"})


@contextlib.contextmanager
def frozen(valkey: Settings) -> Iterator[None]:
    """Meanwhile Valkey accepts connections and answers nothing."""
    pid = int((valkey.data / "valkey.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[Running]:
    """The application on these settings."""
    app = create_app(settings)
    limits = httpx.Limits(max_connections=200)
    with (
        listening(app, settings) as address,
        httpx.Client(base_url=address, timeout=60, limits=limits) as client,
    ):
        yield Running(client, app.state.parts, app.state.gate)


@contextlib.contextmanager
def at_work(settings: Settings) -> Iterator[Runner]:
    """A worker on these settings, in this process."""
    parts = Parts.of(settings)
    runner = Runner(parts, {"ingest": ingest.run, "cut": cut.run}, reading.shared())
    thread = worker.start(runner, QUEUES)
    try:
        yield runner
    finally:
        worker.stop(runner, thread)


@contextlib.contextmanager
def listening(app: FastAPI, settings: Settings) -> Iterator[str]:
    """Serves `app` from a thread; its address."""
    server = server_of(app, settings, port=0, log_level="critical", timeout_graceful_shutdown=1)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A small network, exported, and data on which it is right by definition."""
    return exported(network(), tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="session")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The same with half of the hidden channels zero."""
    model = network()
    with torch.no_grad():
        for layer in (model[1], model[3]):
            layer.weight[::2] = 0
    return exported(model, tmp_path_factory.mktemp("halved"))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10))


def exported(model: nn.Sequential, folder: Path) -> Files:
    model.eval()
    inputs = torch.randn(200, 1, 8, 8)
    dynamic = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    torch.export.save(torch.export.export(model, (inputs[:4],), dynamic_shapes=dynamic), folder / "model.pt2")
    save_file({"inputs": inputs, "targets": model(inputs).argmax(1)}, folder / "evaluation.safetensors")
    return Files(folder / "model.pt2", folder / "evaluation.safetensors")
