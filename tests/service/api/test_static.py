from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from rightrank.service.api import refusals
from rightrank.service.api.static import Folder, takes_gzip
from rightrank.service.settings import Settings
from tests.service.conftest import listening

SCRIPT = "// a script\n" * 200


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "part").mkdir(parents=True)
    (folder / "index.html").write_text('<script src="TAG/part/a.js"></script>')
    (folder / "part" / "a.js").write_text(SCRIPT)
    (folder / "b.css.gz").write_bytes(gzip.compress(b"a {}"))
    (folder / "LICENSE").write_text("Somebody's.")
    return folder


@pytest.fixture
def web(folder: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    app, there = FastAPI(), Folder(folder, "/there")
    refusals.install(app)

    @app.get("/there")
    def page(request: Request) -> Response:
        return there.page(request)

    @app.get("/there/{tag}/{name:path}")
    def file(tag: str, name: str, request: Request) -> Response:
        return there.file(request, tag, name)

    with listening(app, Settings(data=tmp_path / "data")) as address, httpx.Client(base_url=address) as client:
        yield client


def script(web: httpx.Client, **headers: str) -> httpx.Response:
    address = web.get("/there").text.split('"')[1]
    return web.get(address, headers=headers)


def test_a_file_is_kept_for_good_under_an_address_of_its_own(web: httpx.Client, folder: Path) -> None:
    answer = script(web)
    assert answer.text == SCRIPT and answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert "immutable" in answer.headers["Cache-Control"]
    (folder / "part" / "a.js").write_text("// another")
    assert Folder(folder, "/there").tag not in web.get("/there").text


def test_a_page_is_asked_about_each_time(web: httpx.Client) -> None:
    answer = web.get("/there")
    assert answer.headers["Cache-Control"] == "no-cache"
    again = web.get("/there", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_packed_and_plain_are_told_apart(web: httpx.Client) -> None:
    packed, plain = script(web), script(web, **{"Accept-Encoding": "identity"})
    assert packed.headers["Content-Encoding"] == "gzip" and "Content-Encoding" not in plain.headers
    assert packed.text == plain.text and packed.headers["ETag"] != plain.headers["ETag"]
    assert packed.headers["Vary"] == "Accept-Encoding"
    assert script(web, **{"If-None-Match": packed.headers["ETag"]}).status_code == 304


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_what_is_stored_packed_is_sent_to_everybody(web: httpx.Client, encoding: str) -> None:
    tag = web.get("/there").text.split("/")[2]
    answer = web.get(f"/there/{tag}/b.css", headers={"Accept-Encoding": encoding})
    assert answer.text == "a {}" and answer.headers.get("Content-Encoding") == ("gzip" if encoding == "gzip" else None)


@pytest.mark.parametrize("name", ["part/b.js", "LICENSE", "index.html", "..%2Fstatic.py", "b.css.gz"])
def test_nothing_else_is_there(web: httpx.Client, name: str) -> None:
    tag = web.get("/there").text.split("/")[2]
    assert web.get(f"/there/{tag}/{name}").status_code == 404


def test_another_versions_files_are_not_there(web: httpx.Client) -> None:
    answer = web.get("/there/0000000000000000/part/a.js")
    assert answer.status_code == 404 and answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        ([], False),
        (["gzip"], True),
        (["br, gzip;q=0.5"], True),
        (["gzip;q=0"], False),
        (["*"], True),
        (["br"], False),
        (["*;q=0, gzip"], True),
        (["*, gzip;q=0"], False),
    ],
)
def test_who_takes_gzip(accepted: list[str], takes: bool) -> None:
    assert takes_gzip(accepted) is takes
