"""The gate: which requests are answered at all, by the key that they carry. What a key reaches is in `access.py`."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from rightrank.service import logs
from rightrank.service.api import keys
from rightrank.service.api.keys import Key, KeysError
from rightrank.service.problems import Problem

log = logging.getLogger("rightrank")

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# What a proxy adds. Behind one, every request comes from this machine, whoever sent it.
PROXIED = frozenset({b"forwarded", b"via", b"x-real-ip"})
PROXIED_PREFIX = b"x-forwarded-"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="rightrank"'}
WATCH_SECONDS = 1.0

# What tells a file from the one that was at its place before.
Stamp = tuple[int, int, int, int]


class Gate:
    """Decides on requests. Without a keys file everything from this machine's own programs is allowed.

    Raises `ValueError` for a keys file that cannot be read. Once there were keys, none is ever the same as not
    needing one: a file that names none any more lets nobody in, one that cannot be read leaves the former keys.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.keys: tuple[Key, ...] = ()
        self._stamp: Stamp | None = None
        self._asked = False
        self._complaint = ""
        self._looking = threading.Lock()
        if file is not None:
            self._stamp = stamp(file)
            self.keys = keys.read(file)
            if not self.keys:
                raise KeysError(f"{file}: no keys in it")

    @property
    def guarded(self) -> bool:
        """Whether a request needs a key."""
        return self.file is not None

    def reread(self) -> None:
        """Has the file read again soon, though it looks as before. For a signal's handler: it only takes a note."""
        self._asked = True

    async def watch(self) -> None:
        """Reads the file again whenever it has changed, for as long as the service runs."""
        while self.guarded:
            await asyncio.sleep(WATCH_SECONDS)
            await run_in_threadpool(self.look)

    def look(self) -> None:
        """Reads the file again if it has changed, or if that was asked for."""
        with self._looking:
            self._look()

    def _look(self) -> None:
        assert self.file is not None
        asked, self._asked = self._asked, False
        try:
            now = stamp(self.file)
            if now == self._stamp and not asked:
                return
            self._stamp = now  # before it is read: a change meanwhile is another change
            self.keys = keys.read(self.file)
        except (OSError, KeysError) as error:
            if isinstance(error, OSError):
                self._stamp = None  # it is tried again until it can be read
            if asked or str(error) != self._complaint:
                log.error("The keys could not be read again, the former ones stay: %s", error)
            self._complaint = str(error)
            return
        self._complaint = ""
        if self.keys:
            log.info("Read the keys again: %d in %s", len(self.keys), self.file)
        else:
            log.error("%s names no key any more: nobody is let in", self.file)

    def admit(self, request: Request, verb: str | None) -> Key | None:
        """The key that the request carries, or None where none is needed. Raises `Problem`."""
        if not self.guarded:
            refuse_others(request)
            return None
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        key = self.find(secret.strip()) if kind.lower() == "bearer" else None
        logs.note(request.scope, key=key and key.name)
        if key is None:
            raise Problem(
                "unauthenticated",
                "The request carries no key that this service knows.",
                "Send `Authorization: Bearer <key>`.",
                headers=CHALLENGE,
            )
        if key.expired():
            raise Problem(
                "unauthenticated",
                f"The key {key.name!r} has expired: its last day was {key.until}.",
                "Its operator makes another with `rightrank key create`.",
                headers=CHALLENGE,
            )
        if verb is not None and not key.somewhere(verb):
            raise Problem("forbidden", f"The key {key.name!r} does not have the scope {verb!r}.")
        return key

    def find(self, secret: str) -> Key | None:
        """The key whose digest is that of `secret`; every one is compared, each in constant time."""
        digest = hashlib.sha256(secret.encode()).hexdigest()
        found = [key for key in self.keys if hmac.compare_digest(key.digest, digest)]
        return found[0] if found else None


def stamp(file: Path) -> Stamp:
    about = os.stat(file)
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def require(verb: str | None) -> Callable[[Request], Awaitable[Key | None]]:
    """A dependency that admits requests with a key that may `verb` something."""

    async def admit(request: Request) -> Key | None:
        gate: Gate = request.app.state.gate
        return gate.admit(request, verb)

    return admit


async def require_unrestricted(request: Request) -> Key | None:
    """A dependency that admits requests with a key that is not for some names alone: what it answers is of all."""
    gate: Gate = request.app.state.gate
    key = gate.admit(request, None)
    if key is not None and not key.everywhere(None):
        raise Problem(
            "forbidden",
            f"The key {key.name!r} is for {', '.join(key.patterns(None))}, and this is about all models.",
            "It takes a key with a scope that names none.",
        )
    return key


def refuse_others(request: Request) -> None:
    """Who is not on this machine must not reach a service without keys through something that is.

    A page on another site can post a form here through its visitor's browser (its `Origin` tells), and can point its
    own name at 127.0.0.1 (then `Host` is that name). A proxy would let in all whom it answers (it tells whom for).
    """
    host = request.url.hostname or ""
    origin = request.headers.get("origin")
    if not _local(host):
        raise Problem("forbidden", "Without keys, only requests to this machine's own address are answered.")
    if request.method not in SAFE_METHODS and origin is not None and not _local(_host_of(origin)):
        raise Problem("forbidden", "Requests from other web sites are not answered.")
    for name, _ in request.scope["headers"]:
        if name in PROXIED or name.startswith(PROXIED_PREFIX):
            raise Problem(
                "forbidden",
                f"The request came through a proxy, as its header {name[:100].decode('latin-1')!r} says, and this "
                "service has no keys: everybody whom the proxy answers could publish and delete.",
                "Make keys with `rightrank key create`, and start the service with RIGHTRANK_KEYS_FILE.",
            )


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
