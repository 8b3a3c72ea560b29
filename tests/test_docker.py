"""The compose file and the image, as far as they can be checked without a container engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from rightrank.service import cli
from rightrank.service.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "rightrank"}
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
VARIABLES = {
    *re.findall(r"\b(RIGHTRANK_\w+)=", DOCKERFILE.split("\nFROM ")[-1]),
    *(key for service in SERVICES.values() for key in service.get("environment", {})),
}


def values(service: str, setting: str) -> str:
    return str(SERVICES[service]["environment"][f"RIGHTRANK_{setting}"])


def test_there_are_an_api_a_worker_and_a_valkey() -> None:
    assert set(SERVICES) == {"api", "worker", "cutter", "valkey"}
    assert set(OURS) == {"api", "worker", "cutter"}


def test_every_service_is_health_checked() -> None:
    unchecked = {name for name, service in SERVICES.items() if "healthcheck" not in service}
    # The image's own check, which is an HTTP request, is the API's and no other's.
    assert unchecked == {"api"}
    assert re.search(r"^HEALTHCHECK .*\\\n +CMD .*/healthz", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("name", OURS)
def test_our_services_wait_until_valkey_answers(name: str) -> None:
    assert SERVICES[name]["depends_on"]["valkey"] == {"condition": "service_healthy"}


def test_no_service_runs_as_root() -> None:
    users = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)
    assert users
    assert users[-1].split(":")[0] not in ("0", "root")
    assert "USER" not in DOCKERFILE.partition("ENTRYPOINT")[2]
    for service in SERVICES.values():
        assert str(service.get("user", users[-1])).split(":")[0] not in ("0", "root")


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_can_gain_privileges_or_write_its_image(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True


def test_every_variable_is_a_setting() -> None:
    assert VARIABLES
    assert {name.removeprefix("RIGHTRANK_").lower() for name in VARIABLES} <= set(Settings.model_fields)


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_a_command_with_options_that_it_has(name: str) -> None:
    command, *words = SERVICES[name]["command"]
    commands = typer.main.get_command(cli.app)
    assert isinstance(commands, typer.core.TyperGroup)
    known = {option for parameter in commands.commands[command].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_image_runs_the_command_that_is_installed() -> None:
    assert 'ENTRYPOINT ["rightrank"]' in DOCKERFILE
    assert '\nrightrank = "rightrank.service.cli:app"\n' in (ROOT / "pyproject.toml").read_text()


def test_all_services_use_the_valkey_of_the_file() -> None:
    assert {values(name, "REDIS_URL") for name in OURS} == {"redis://valkey:6379/0"}
    assert all("inside" in SERVICES[name]["networks"] for name in SERVICES)


def test_the_api_alone_reads_the_keys_and_sees_a_changed_file() -> None:
    assert values("api", "KEYS_FILE") == "/secrets/keys"
    mounted = {name: [v for v in service.get("volumes", []) if "secrets" in v] for name, service in SERVICES.items()}
    # A file that is mounted by itself stays the one that it was when another takes its place.
    assert mounted == {"api": ["./secrets:/secrets:ro"], "worker": [], "cutter": [], "valkey": []}


def test_what_reads_uploads_reaches_nothing_outside() -> None:
    assert SERVICES["worker"]["networks"] == ["inside"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}


def test_only_the_api_is_published_and_only_on_loopback() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"api": ["127.0.0.1:8000:8000"]}


def test_our_services_share_the_store() -> None:
    assert all("data:/data" in service["volumes"] for service in OURS.values())
    assert "RIGHTRANK_DATA=/data" in DOCKERFILE


def test_what_the_image_is_built_from_reaches_the_build() -> None:
    copied = set(" ".join(re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)).split())
    let_through = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == let_through


def test_the_image_has_the_torch_that_make_installs() -> None:
    pinned = re.search(r"^RIGHTRANK_TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert pinned
    assert f"ARG RIGHTRANK_TORCH={pinned[1]}\n" in DOCKERFILE
