from __future__ import annotations

from pathlib import Path

from rightrank.service.settings import Settings
from tests.service.conftest import Running, serving


def test_a_service_with_all_it_needs_is_alive_and_ready(shared: Running) -> None:
    assert shared.client.get("/healthz").status_code == shared.client.get("/readyz").status_code == 200


def test_without_redis_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    with serving(Settings(data=tmp_path, redis_url=f"unix://{tmp_path}/nothing.sock")) as running:
        assert running.client.get("/healthz").status_code == 200
        answer = running.client.get("/readyz")
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
        assert running.client.get("/operations/x").status_code == 503
