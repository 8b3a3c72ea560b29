"""The keys file: who may what, and until when.

A line per key: `name scopes sha256 [until]`. `scopes` are comma separated: `fetch`, `publish` or `admin`, of every
model, or of those whose name begins so or is this, `fetch:acme.*`, `fetch:acme.net`. `sha256` is the hex digest of the
key itself, so that the file gives no key away. `until` is the last day, in UTC, on which it is good.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

VERBS = ("fetch", "publish", "admin")
SCOPE = re.compile(rf"({'|'.join(VERBS)})(:[a-z0-9][a-z0-9._-]{{0,63}}\*?)?")
DIGEST = re.compile(r"[0-9a-f]{64}")
# So much of a digest tells a key from the others of a file.
SHOWN = 12
FORM = "expected `name scopes sha256-of-the-key [last-day]`"


class KeysError(ValueError):
    """What is wrong with a keys file, or with what is asked of it."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and what its scopes say. `admin` may do everything, where it is for."""

    name: str
    scopes: frozenset[str]
    digest: str
    until: datetime.date | None = None

    def everywhere(self, verb: str | None) -> bool:
        """Whether it may `verb` (None: any of them) every model, whatever that is called."""
        if verb is None:
            return any(":" not in scope for scope in self.scopes)
        return verb in self.scopes or "admin" in self.scopes

    def over(self, verb: str | None, name: str) -> bool:
        """Whether it may `verb` (None: any of them) what is called `name`, without a version."""
        return self.everywhere(verb) or any(matches(pattern, name) for pattern in self.patterns(verb))

    def somewhere(self, verb: str) -> bool:
        """Whether there may be a model that it may `verb`."""
        return self.everywhere(verb) or bool(self.patterns(verb))

    def patterns(self, verb: str | None) -> list[str]:
        """The names, or beginnings of names, that it may `verb` (None: any of them), sorted."""
        split = (scope.partition(":") for scope in self.scopes)
        return sorted({pattern for own, _, pattern in split if pattern and (verb is None or own in (verb, "admin"))})

    def expired(self) -> bool:
        return self.until is not None and datetime.datetime.now(datetime.UTC).date() > self.until


def matches(pattern: str, name: str) -> bool:
    """`acme.*` is for every name that begins with `acme.`; without the star, a pattern is one name."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def parse(text: str, where: str) -> tuple[Key, ...]:
    """The keys of a file's text; blank lines and lines from `#` on are skipped. Raises `KeysError` naming the line."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            key = _key_of(line)
        except KeysError as error:
            raise KeysError(f"{where}:{number}: {error}") from error
        if key is not None:
            found.append(key)
    return tuple(found)


def read(path: Path) -> tuple[Key, ...]:
    """The keys of a file, none where it names none. Raises `OSError`, or `KeysError` naming the line."""
    return parse(_text(path), str(path))


def create(path: Path, name: str, scopes: list[str], until: datetime.date | None = None) -> str:
    """Makes a key and adds its line to the file, a new one only for its owner to read; the key. Raises `KeysError`."""
    if not name.isprintable() or not name or set(name) & set(" #"):
        raise KeysError("a name has no spaces and no #")
    for scope in scopes:
        if not SCOPE.fullmatch(scope):
            raise KeysError(
                f"{scope!r} is no scope: {', '.join(VERBS)}, each also for names alone, such as fetch:acme.* "
                "or fetch:acme.net"
            )
    secret = f"rr_{secrets.token_urlsafe(32)}"
    fields = [name, ",".join(dict.fromkeys(scopes)), hashlib.sha256(secret.encode()).hexdigest()]
    if until is not None:
        fields.append(until.isoformat())

    def add(text: str) -> str:
        return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{' '.join(fields)}\n"

    path.parent.mkdir(parents=True, exist_ok=True)
    _change(path, add)
    return secret


def revoke(path: Path, which: str) -> list[Key]:
    """Takes out the keys called `which`, or the one whose digest begins so; what was taken out. Raises `KeysError`.

    Every other line stays as it is.
    """
    gone: list[Key] = []

    def remove(text: str) -> str:
        found = parse(text, str(path))
        gone[:] = [key for key in found if key.name == which]
        if not gone and re.fullmatch(r"[0-9a-f]{6,64}", which):
            gone[:] = [key for key in found if key.digest.startswith(which)]
            if len(gone) > 1:
                raise KeysError(f"{len(gone)} digests begin with {which}: give more of it")
        if not gone:
            raise KeysError(f"{path} has no key of this name, or whose digest begins so: {which}")
        return "".join(line for line in text.splitlines(keepends=True) if _key_of(line) not in gone)

    _change(path, remove)
    return gone


def _key_of(line: str) -> Key | None:
    """The key of a line, or None where it has none. Raises `KeysError`."""
    fields = line.split("#")[0].split()
    if not fields:
        return None
    if len(fields) not in (3, 4):
        raise KeysError(FORM)
    name, scopes, digest = fields[:3]
    for scope in scopes.split(","):
        if not SCOPE.fullmatch(scope):
            raise KeysError(f"{scope!r} is no scope; {FORM}")
    if not DIGEST.fullmatch(digest):
        raise KeysError(f"{digest!r} is no SHA-256 in hexadecimal; {FORM}")
    until = None
    if len(fields) == 4:
        try:
            until = datetime.date.fromisoformat(fields[3])
        except ValueError as error:
            raise KeysError(f"{fields[3]!r} is no day such as 2027-01-31; {FORM}") from error
    return Key(name, frozenset(scopes.split(",")), digest, until)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise KeysError(f"{path}: it is not UTF-8 text") from error


def _change(path: Path, change: Callable[[str], str]) -> None:
    """Puts the changed text in place of the file's, whole or not at all, while nobody else changes it."""
    path = path.resolve()  # of a link, what it points to
    with _alone(path.parent) as folder:
        there = path.exists()
        text = change(_text(path) if there else "")
        descriptor, beside = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                if there:
                    about = path.stat()
                    os.fchmod(file.fileno(), about.st_mode & 0o777)
                    with contextlib.suppress(PermissionError):
                        os.fchown(file.fileno(), about.st_uid, about.st_gid)
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
        os.fsync(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Holds a lock on the folder, which stays where the file in it is replaced; its descriptor."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
