from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rightrank.service.api.app import create_app
from rightrank.service.settings import Settings
from tests.service.conftest import Files, Running, at_work


def test_the_web_process_never_loads_torch() -> None:
    script = "import sys, rightrank.service.api.app; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_the_interface_describes_itself(shared: Running) -> None:
    paths = shared.client.get("/openapi.json").json()["paths"]
    assert set(paths) >= {"/models", "/models/{reference}", "/operations/{id}", "/healthz", "/readyz", "/metrics"}
    assert "multipart/form-data" in paths["/models"]["post"]["requestBody"]["content"]
    assert shared.client.get("/docs").status_code == 200


def test_what_was_queued_survives_the_loss_of_redis(web: Running, settings: Settings, files: Files) -> None:
    operation = web.push({"checkpoint": files.checkpoint}).json()["operation"]
    web.parts.cache.redis.flushdb()
    with at_work(settings):
        assert web.end(operation)["error"] is None


def test_a_restart_takes_up_what_was_not_finished(
    web: Running, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.client.post("/models", files={"checkpoint": ("a", b"anything")})
    web.parts.cache.redis.flushdb()
    monkeypatch.setattr("rightrank.service.api.app.TEND_SECONDS", 0.01)
    web.parts.cache.redis.info = lambda section: {"run_id": "another"}  # as after a restart of Redis
    deadline = time.monotonic() + 20
    while web.parts.engine.length("ingest") == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_keys_that_cannot_be_read_stop_the_start(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("nonsense")
    with pytest.raises(ValueError, match="keys:1"):
        create_app(settings.model_copy(update={"keys_file": tmp_path / "keys"}))
