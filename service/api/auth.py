"""Keys: who may do what.

A keys file has a line per key: `name scopes sha256`, where `scopes` are comma separated and `sha256` is
the hex digest of the key itself, so that the file gives no key away. `admin` may do everything.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import Request

from rightrank.service.problems import Problem

SCOPES = frozenset({"publish", "fetch", "admin"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    scopes: frozenset[str]
    digest: str

    def allows(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file; blank lines and lines from `#` on are skipped. Raises `ValueError` naming the line."""
    keys: list[Key] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fields = line.split("#")[0].split()
        if not fields:
            continue
        scopes = frozenset(fields[1].split(",")) if len(fields) == 3 else frozenset()
        if not scopes or not scopes <= SCOPES or not re.fullmatch(r"[0-9a-f]{64}", fields[2]):
            raise ValueError(f"{path}:{number}: expected `name publish,fetch,admin sha256-of-the-key`")
        keys.append(Key(fields[0], scopes, fields[2]))
    if not keys:
        raise ValueError(f"{path}: no keys in it")
    return tuple(keys)


class Gate:
    """Decides on requests. Without keys everything from this machine's own programs is allowed."""

    def __init__(self, keys_file: Path | None) -> None:
        self.keys = read_keys(keys_file) if keys_file else ()

    def admit(self, request: Request, scope: str | None) -> Key | None:
        """The key that the request carries, or None where none is needed. Raises `Problem`."""
        if not self.keys:
            refuse_other_sites(request)
            return None
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        key = self.find(secret.strip()) if kind.lower() == "bearer" else None
        if key is None:
            raise Problem(
                "unauthenticated",
                "The request carries no key that this service knows.",
                "Send `Authorization: Bearer <key>`.",
                headers={"WWW-Authenticate": 'Bearer realm="rightrank"'},
            )
        if scope is not None and not key.allows(scope):
            raise Problem("forbidden", f"The key {key.name!r} does not have the scope {scope!r}.")
        return key

    def find(self, secret: str) -> Key | None:
        """The key whose digest is that of `secret`; every one is compared, each in constant time."""
        digest = hashlib.sha256(secret.encode()).hexdigest()
        found = [key for key in self.keys if hmac.compare_digest(key.digest, digest)]
        return found[0] if found else None


def require(scope: str | None) -> Callable[[Request], Awaitable[Key | None]]:
    """A dependency that admits requests with `scope`."""

    async def admit(request: Request) -> Key | None:
        gate: Gate = request.app.state.gate
        return gate.admit(request, scope)

    return admit


def refuse_other_sites(request: Request) -> None:
    """A web page must not reach a service without keys through its visitor's browser.

    A page on another site can post a form here (its `Origin` tells), and can point its own name at
    127.0.0.1 (then `Host` is that name).
    """
    host = request.url.hostname or ""
    origin = request.headers.get("origin")
    if not _local(host):
        raise Problem("forbidden", "Without keys, only requests to this machine's own address are answered.")
    if request.method not in SAFE_METHODS and origin is not None and not _local(_host_of(origin)):
        raise Problem("forbidden", "Requests from other web sites are not answered.")


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def _local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
