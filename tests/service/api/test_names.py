from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rightrank.service.registry.aliases import Aliases
from rightrank.service.settings import Settings
from tests.service.conftest import Running, serving


@pytest.fixture
def web(stocked: Settings) -> Iterator[Running]:
    """A service whose model `demo` is also the versions 1 and 3 of `net`; another, which is gone, was 2."""
    with serving(stocked) as running:
        id = running.parts.catalogue.resolve("demo")
        for each in (id, "m" + "a" * 24, id):
            running.parts.catalogue.publish("net", each)
        yield running


def move(web: Running, version: object, alias: str = "stable", name: str = "net") -> int:
    return web.client.put(f"/names/{name}/aliases/{alias}", json={"version": version}).status_code


def test_an_alias_is_the_version_that_it_was_moved_to_and_its_moves_stay(web: Running) -> None:
    assert web.client.get("/models/net@stable").status_code == 404
    for version in (1, 3, 3, 1):
        assert move(web, version) == 200
        assert web.client.get("/models/net@stable").json()["id"] == web.parts.catalogue.resolve("demo")
    (alias,) = web.client.get("/names/net").json()["aliases"]
    assert (alias["alias"], alias["version"]) == ("stable", 1)
    assert [each["version"] for each in alias["moves"]] == [1, 3, 1]
    assert web.client.delete("/names/net/aliases/stable").json()["aliases"][0]["version"] is None
    assert web.client.get("/models/net@stable").status_code == 404
    assert web.client.delete("/names/net/aliases/stable").status_code == 404


def test_a_name_says_its_versions_and_which_of_them_exist(web: Running) -> None:
    answer = web.client.get("/names/net").json()
    assert [(each["version"], each["exists"]) for each in answer["versions"]] == [(3, True), (2, False), (1, True)]
    assert answer["aliases"] == [] and web.client.get("/names/unknown").status_code == 404


@pytest.mark.parametrize("version", [2, 4, 0, -1, "x", None, 10**12])
def test_an_alias_is_moved_to_no_version_that_is_not_there(web: Running, version: object) -> None:
    assert move(web, version) in (404, 422)
    assert web.client.get("/names/net").json()["aliases"] == []


@pytest.mark.parametrize(("name", "alias"), [("net", "3"), ("net", "Stable"), ("net", "-x"), ("..", "stable")])
def test_an_alias_is_a_word_and_no_number(web: Running, name: str, alias: str) -> None:
    assert move(web, 1, alias, name) in (404, 405, 422)
    assert web.parts.store.keys("aliases") == []


def test_an_alias_never_falls_back_to_another_version(web: Running) -> None:
    move(web, 1)
    id = web.parts.catalogue.resolve("demo")
    web.client.delete(f"/models/{id}")
    assert web.client.get("/models/net@stable").status_code == 410
    web.client.post(f"/models/{id}/undelete")
    assert web.client.get("/models/net@stable").status_code == 200


def test_what_an_alias_gives_is_checked_each_time_and_what_a_version_gives_is_kept(web: Running) -> None:
    move(web, 1)
    asked = {"params": {"budget": 1}}
    assert "no-cache" in web.client.head("/models/net@stable", **asked).headers["Cache-Control"]
    assert "max-age" in web.client.head("/models/net@1", **asked).headers["Cache-Control"]


def test_moves_at_once_are_all_kept_and_one_is_the_last(web: Running) -> None:
    aliases = Aliases(web.parts.store)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda version: aliases.move("net", "stable", version, "eve"), range(1, 7)))
    moves = aliases.of("net")["stable"]
    assert sorted(each["version"] for each in moves) == [1, 2, 3, 4, 5, 6]
    assert aliases.version("net", "stable") == moves[0]["version"]


def test_a_name_that_ends_like_a_file_under_way_is_a_name(web: Running) -> None:
    id = web.parts.catalogue.resolve("demo")
    for name in ("net.partial-2", "net.json", "net.partial-" + "0" * 32):
        assert web.parts.catalogue.publish(name, id) == 1
        assert web.client.get(f"/models/{name}").json()["id"] == id
        assert move(web, 1, "stable", name) == 200
        assert web.client.get(f"/models/{name}@stable").json()["id"] == id


@pytest.mark.parametrize("name", ["%2e%2e", "%00", "a%0Ab", "A", "-x", "a" * 65])
def test_what_can_be_no_name_is_not_there(web: Running, name: str) -> None:
    for method, path in (("GET", ""), ("HEAD", ""), ("PUT", "/aliases/stable"), ("DELETE", "/aliases/stable")):
        body = {"version": 1} if method == "PUT" else None
        assert web.client.request(method, f"/names/{name}{path}", json=body).status_code == 404
