"""Files that a browser is sent as they are: read once, under an address that has their digest, so that a cache may keep
them for good and a new version is another address."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastapi import Request, Response

from rightrank.service.api.conditions import matches
from rightrank.service.problems import Problem

TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
FOR_GOOD = "public, max-age=31536000, immutable"
# Below this there is little to save.
WORTH_PACKING = 1024
# A page runs and shows what came from here and talks to nobody else. Nothing inline runs, so that no text of a model
# can ever become a script or a style.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
GUARDS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True)
class File:
    """What is sent, and the same packed where that is worth it. One that is stored packed is kept so."""

    media_type: str
    packed: bytes | None
    _plain: bytes | None = None

    @staticmethod
    def of(path: Path) -> File:
        data = path.read_bytes()
        if path.suffix == ".gz":
            return File(TYPES[path.with_suffix("").suffix], data)
        return File(TYPES[path.suffix], gzip.compress(data, 9, mtime=0) if len(data) > WORTH_PACKING else None, data)

    @property
    def plain(self) -> bytes:
        if self._plain is not None:
            return self._plain
        assert self.packed is not None
        return gzip.decompress(self.packed)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.plain).hexdigest()[:32]

    def answer(self, request: Request, headers: Mapping[str, str]) -> Response:
        """The file, packed for who takes that, or 304."""
        packs = self.packed is not None and takes_gzip(request.headers.getlist("accept-encoding"))
        etag = f'"{self.digest}-gzip"' if packs else f'"{self.digest}"'
        headers = {**headers, "ETag": etag, "Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff"}
        listed = request.headers.getlist("if-none-match")
        if listed and matches(", ".join(listed), etag):
            return Response(status_code=304, headers=headers)
        if packs:
            return Response(self.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=self.media_type)
        return Response(self.plain, headers=headers, media_type=self.media_type)


class Folder:
    """All files below a folder, and a page over them: its `index.html`, in which `TAG` stands for the address."""

    def __init__(self, folder: Path, address: str) -> None:
        """`address` is the path below which the files are served."""
        found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "LICENSE")
        named = {path.relative_to(folder).as_posix().removesuffix(".gz"): File.of(path) for path in found}
        self.index = named.pop("index.html").plain.decode()
        self.files: Mapping[str, File] = named
        words = "".join(f"{name} {file.digest}\n" for name, file in named.items()) + self.index
        self.tag = hashlib.sha256(words.encode()).hexdigest()[:16]
        page = self.index.replace("TAG", f"{address}/{self.tag}").encode()
        self._page = File(TYPES[".html"], gzip.compress(page, 9, mtime=0), page)

    def page(self, request: Request) -> Response:
        """The page, which is asked about each time and then mostly known."""
        return self._page.answer(request, {**GUARDS, "Cache-Control": "no-cache"})

    def file(self, request: Request, tag: str, name: str) -> Response:
        """One of its files. Raises `Problem` for another version's, and for what there is not."""
        if tag != self.tag or name not in self.files:
            raise Problem("not-found", f"There is no {name[:100]!r} here.", "Load the page anew.")
        headers = {"Cache-Control": FOR_GOOD, "Cross-Origin-Resource-Policy": "same-origin"}
        return self.files[name].answer(request, headers)


def takes_gzip(accepted: list[str]) -> bool:
    """Whether a client takes gzip (RFC 9110, 12.5.3)."""
    found: dict[str, bool] = {}
    for each in ",".join(accepted).split(","):
        coding, _, weight = each.partition(";")
        refused = weight.replace(" ", "").lower() in ("q=0", "q=0.0", "q=0.00", "q=0.000")
        found[coding.strip().lower()] = not refused
    return found.get("gzip", found.get("*", False))
