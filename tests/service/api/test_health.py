from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rightrank.service.api.app import THREADS
from rightrank.service.settings import Settings
from tests.faulty_s3 import ABSENT, HANG, REFUSE, RESET, Bucket
from tests.service.conftest import Running, frozen, serving


def test_a_service_with_all_it_needs_is_alive_and_ready(shared: Running) -> None:
    assert shared.client.get("/healthz").status_code == shared.client.get("/readyz").status_code == 200


def test_without_redis_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    with serving(Settings(data=tmp_path, redis_url=f"unix://{tmp_path}/nothing.sock")) as running:
        assert running.client.get("/healthz").status_code == 200
        answer = running.client.get("/readyz")
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
        assert running.client.get("/operations/x").status_code == 503


def readiness(running: Running) -> tuple[int, str]:
    answer = running.client.get("/readyz")
    return answer.status_code, answer.json().get("detail", "")


def test_a_frozen_valkey_is_named(valkey: Settings, settings: Settings) -> None:
    with serving(settings) as running, frozen(valkey):
        assert readiness(running) == (503, "The cache cannot be reached.")
        assert running.client.get("/healthz").status_code == 200


@pytest.mark.parametrize("fault", [HANG, REFUSE, RESET, ABSENT])
def test_a_bucket_that_does_not_answer_or_is_not_there_is_named(
    in_bucket: Settings, bucket: Bucket, fault: str
) -> None:
    with serving(in_bucket) as running:
        assert readiness(running)[0] == 200
        with bucket.failing(fault):
            assert readiness(running) == (503, "The store cannot be reached.")
            assert running.client.get("/healthz").status_code == 200


def test_a_folder_that_is_gone_is_named(settings: Settings) -> None:
    with serving(settings) as running:
        assert settings.store_folder is not None
        shutil.rmtree(settings.store_folder)
        assert readiness(running) == (503, "The store cannot be reached.")


def test_it_is_alive_while_every_thread_waits(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, waiting = threading.Event(), threading.Semaphore(0)

    def wait(*asked: object) -> None:
        waiting.release()
        let_go.wait(30)

    with serving(settings) as running, ThreadPoolExecutor(THREADS) as pool:
        monkeypatch.setattr(running.parts.catalogue, "manifests", wait)
        for _ in range(THREADS):
            pool.submit(running.client.get, "/models")
        try:
            for _ in range(THREADS):
                assert waiting.acquire(timeout=20)
            assert running.client.get("/healthz").status_code == 200
            assert readiness(running)[0] == 200
        finally:
            let_go.set()
