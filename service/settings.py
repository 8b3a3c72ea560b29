"""Every setting of the service, from `RIGHTRANK_*` variables, with the unsafe combinations refused."""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ByteSize, Field, TypeAdapter, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rightrank.service.logs import Form

MIB = 1024 * 1024
GIB = 1024 * MIB
# sockaddr_un.sun_path holds 108 bytes on Linux and 104 on macOS, the closing zero included.
SOCKET_PATH_LIMIT = 103
PREFIX = "RIGHTRANK_"
# What other parts read: the client, and the Makefile.
ELSEWHERE = ("RIGHTRANK_URL", "RIGHTRANK_KEY", "RIGHTRANK_TORCH")

Bytes = Annotated[int, BeforeValidator(TypeAdapter(ByteSize).validate_python)]


class Settings(BaseSettings):
    """Sizes are bytes, `512MiB` or `2GB`, times are seconds. Raises `ValueError` where the settings would be unsafe."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    data: Path = Path("data")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    workers: int = Field(2, ge=0)
    redis_url: str | None = None
    store_url: str | None = None
    keys_file: Path | None = None
    cache_bytes: Bytes = Field(512 * MIB, ge=16 * MIB)
    artifact_ttl: int = Field(3600, ge=1)
    upload_limit: Bytes = Field(4 * GIB, ge=1)
    wait: float = Field(30.0, ge=0, le=120)
    queue_limit: int = Field(64, ge=1)
    jobs_per_key: int = Field(8, ge=1)
    job_seconds: int = Field(24 * 3600, ge=1)
    job_memory: Bytes = Field(0, ge=0)
    connections: int = Field(512, ge=1)
    head_bytes: Bytes = Field(64 * 1024, ge=1024)
    head_seconds: float = Field(10.0, gt=0)
    body_seconds: float = Field(30.0, gt=0)
    keep_alive_seconds: int = Field(5, ge=0)
    disk_reserve: Bytes = Field(256 * MIB, ge=0)
    reader_memory: Bytes = Field(8 * GIB, ge=256 * MIB)
    reader_seconds: int = Field(600, ge=1)
    reader_tensors: int = Field(100_000, ge=1)
    # How what happens is written to stderr (see `logs`): for people, or a JSON object a line.
    log: Form = "text"
    # Whether an upload is refused where what reads it cannot be confined (`models/confinement`), or read all the same.
    sandbox: Literal["require", "best"] | None = None

    @model_validator(mode="after")
    def refuse_unsafe(self) -> Settings:
        if self.keys_file is None and not is_loopback(self.host):
            raise ValueError(
                f"refusing to listen on {self.host} without keys: set RIGHTRANK_KEYS_FILE, or listen on 127.0.0.1"
            )
        if self.keys_file is not None and not self.keys_file.is_file():
            raise ValueError(f"there is no keys file at {self.keys_file}")
        return self

    @property
    def sandbox_required(self) -> bool:
        """What `sandbox` says; left open, it is required of a service that strangers can reach."""
        return self.sandbox == "require" or (self.sandbox is None and not is_loopback(self.host))

    @property
    def embedded(self) -> bool:
        """Whether the service starts its own Valkey."""
        return self.redis_url is None

    @property
    def socket(self) -> Path:
        """The embedded Valkey's socket: in `data`, or where that path is too long, in a folder named after it."""
        path = self.data.absolute() / "valkey.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
            return path
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"rightrank-{os.getuid()}-{name}" / "valkey.sock"

    @property
    def redis(self) -> str:
        """The Redis URL that every process connects to."""
        return self.redis_url or f"unix://{self.socket}"

    @property
    def scratch(self) -> Path:
        """Where temporary files go: on the same disk as `data`, so that they can be moved rather than copied."""
        return self.data.absolute() / "tmp"

    @property
    def store_folder(self) -> Path | None:
        """The store's folder, or None where it is a bucket."""
        if self.store_url is None:
            return self.data.absolute() / "store"
        return Path(self.store_url.removeprefix("file://")) if self.store_url.startswith("file://") else None


def unknown(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Of the names of variables those that begin like a setting and are none, each with the setting that it may have
    been meant for, or ""."""
    known = [*(PREFIX + name.upper() for name in Settings.model_fields), *ELSEWHERE]
    for name in sorted(names):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            yield name, next(iter(difflib.get_close_matches(name.upper(), known, 1, 0.8)), "")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
