"""Keys that are for some names alone: what they see, what they do, and what is not there for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from rightrank.service.api.app import RESOURCES
from rightrank.service.jobs.operations import cut_id, ingest_id
from rightrank.service.registry.layout import manifest_key, upload_key, wanted_key
from rightrank.service.settings import Settings
from tests.service.api.test_auth import bearer, line
from tests.service.conftest import Running, serving

KEYS = {
    "acme": "publish:acme.*,fetch:acme.*",
    "reader": "fetch:acme.*",
    "boss": "admin:acme.*",
    "other": "publish:other.*,fetch:other.*",
    "one": "fetch:acme.net",
    "mixed": "fetch,admin:acme.*",
    "all": "fetch,publish",
    "root": "admin",
}
NOBODY = "m" + "0" * 24


@pytest.fixture
def city(stocked: Settings, tmp_path: Path) -> Iterator[Running]:
    """A service with one model, `demo` and `acme.net`, and keys for some names and for all."""
    keys = tmp_path / "keys"
    keys.write_text("".join(line(name, scopes) for name, scopes in KEYS.items()))
    with serving(stocked.model_copy(update={"keys_file": keys, "jobs_per_key": 50})) as running:
        running.parts.catalogue.publish("acme.net", running.parts.catalogue.resolve("demo"))
        yield running


@pytest.fixture
def both(city: Running) -> str:
    """The id of the model that has a name of acme's and another."""
    return city.parts.catalogue.resolve("demo")


def ask(city: Running, key: str, path: str, method: str = "GET", **more: Any) -> httpx.Response:
    return city.client.request(method, path, headers=bearer(key) | more.pop("headers", {}), **more)


def status(city: Running, key: str, path: str, method: str = "GET") -> int:
    return ask(city, key, path, method).status_code


def fetched(city: Running, key: str, reference: str) -> int:
    """The status of a fetch by who has the file already: no worker is needed for a 304."""
    record = city.known("demo")
    has = {"If-None-Match": f'"{record.sha256}"'}
    return ask(city, key, f"/models/{reference}?max_params={record.plan.params}", headers=has).status_code


def copied(city: Running, like: str, id: str, owner: str, *names: str) -> str:
    """Another finished model, the same but for its id, owner and names."""
    root = city.parts.store.root
    assert root is not None
    shutil.copytree(root / "models" / like, root / "models" / id)
    for key in (manifest_key(id), upload_key(id)):
        if (root / key).exists():
            about = json.loads((root / key).read_text()) | {"id": id, "owner": owner}
            (root / key).write_text(json.dumps(about))
    for name in names:
        city.parts.catalogue.publish(name, id)
    return id


def push(city: Running, key: str, content: bytes = b"anything", **fields: str) -> httpx.Response:
    return ask(city, key, "/models", "POST", files={"checkpoint": ("a.pt2", content)}, data=fields)


def test_a_key_reaches_what_its_names_are_for_by_name_version_and_id(city: Running, both: str) -> None:
    for reference in ("acme.net", "acme.net@1", both):
        for key in ("acme", "reader", "boss", "one", "all", "root"):
            assert status(city, key, f"/models/{reference}") == 200
            assert fetched(city, key, reference) == 304
        assert status(city, "other", f"/models/{reference}") == 404


def test_what_is_not_for_a_key_is_answered_as_what_is_not_there(city: Running, both: str) -> None:
    plan = city.parts.catalogue.records(both)[0].plan.digest
    hidden = [("demo", "nothing"), ("demo@1", "nothing@1"), ("acme.net", "acme.not"), (both, NOBODY)]
    paths = [("GET", "{}"), ("GET", "{}?budget=0.5"), ("HEAD", "{}?budget=0.5"), ("GET", "{}/curve")]
    for there, absent in hidden:
        for method, path in [*paths, ("GET", "{}/importance")]:
            answers = [ask(city, "other", f"/models/{path.format(name)}", method) for name in (there, absent)]
            assert [answer.status_code for answer in answers] == [404, 404]
            assert answers[0].text == answers[1].text.replace(absent, there)
    for there, absent in ((ingest_id(both), ingest_id(NOBODY)), (cut_id(both, plan), cut_id(NOBODY, plan))):
        assert status(city, "root", f"/operations/{there}") == 200
        for method, path in (("GET", "{}"), ("GET", "{}/events"), ("DELETE", "{}")):
            answers = [ask(city, "other", f"/operations/{path.format(id)}", method) for id in (there, absent)]
            assert [answer.status_code for answer in answers] == [404, 404]
            assert answers[0].text == answers[1].text.replace(absent, there)


def test_every_route_to_a_model_or_an_operation_asks_what_the_key_reaches(city: Running, both: str) -> None:
    """A new one that forgets to shows here: it answers about what is not there for this key."""
    hidden = copied(city, both, "m" + "a" * 24, "other", "other.net")
    placed = {"reference": hidden, "id": ingest_id(hidden), "name": "other.net", "alias": "stable"}
    placed |= {"sha256": "0" * 64, "metric": "wer", "plan": "0" * 32}
    bodies = {"{alias}": {"version": 1}, "{metric}": {"value": 1.0}}
    walked = set()
    for route in (route for resource in RESOURCES for route in resource.router.routes):
        if not isinstance(route, APIRoute) or "{" not in route.path or {"kind", "tag"} & {*route.param_convertors}:
            continue
        for method in route.methods:
            walked.add((method, route.path))
            body = next(bodies[last] for last in bodies if last in route.path) if method == "PUT" else None
            answer = ask(city, "boss", route.path.format(**placed), method, json=body)
            assert answer.status_code == 404, (method, route.path)
    assert walked >= {
        *(
            ("GET", f"/models/{{reference}}{more}")
            for more in ("", "/curve", "/importance", "/sizes", "/plan", "/plans/{plan}")
        ),
        *((method, "/models/{reference}") for method in ("HEAD", "DELETE")),
        *(("GET", f"/operations/{{id}}{more}") for more in ("", "/events")),
        ("DELETE", "/operations/{id}"),
        ("POST", "/operations/{id}/retry"),
        ("POST", "/models/{reference}/undelete"),
        ("GET", "/names/{name}"),
        *((method, "/names/{name}/aliases/{alias}") for method in ("PUT", "DELETE")),
        *((method, "/models/{reference}/reports/{sha256}/{metric}") for method in ("GET", "HEAD", "PUT", "DELETE")),
    }
    assert status(city, "root", f"/models/{hidden}") == 200


def test_a_description_and_the_list_show_what_may_be_seen(city: Running, both: str) -> None:
    hidden = copied(city, both, "m" + "a" * 24, "other", "other.net")
    assert ask(city, "acme", f"/models/{both}").json()["names"] == ["acme.net@1"]
    assert ask(city, "root", f"/models/{both}").json()["names"] == ["acme.net@1", "demo@1"]

    def listed(key: str) -> dict[str, list[str]]:
        return {model["id"]: model["names"] for model in ask(city, key, "/models").json()["models"]}

    whole = {both: ["acme.net@1", "demo@1"], hidden: ["other.net@1"]}
    assert listed("acme") == listed("reader") == listed("boss") == listed("one") == {both: ["acme.net@1"]}
    assert listed("other") == {hidden: ["other.net@1"]}
    assert listed("all") == listed("mixed") == listed("root") == whole


def test_pages_of_the_list_hold_what_may_be_seen(city: Running, both: str) -> None:
    for number in range(5):
        copied(city, both, f"m{number:024d}", "other", f"{'acme' if number % 2 else 'other'}.{number}")
    found, cursor = [], None
    while True:
        page = ask(city, "acme", "/models?limit=1" + (f"&cursor={cursor}" if cursor else "")).json()
        found += [name for model in page["models"] for name in model["names"]]
        if (cursor := page["next"]) is None:
            break
    assert sorted(found) == ["acme.1@1", "acme.3@1", "acme.net@1"]


@pytest.mark.parametrize(
    ("name", "told"), [(None, "has no name"), ("other.net", "the name 'other.net'"), ("acme", "the name 'acme'")]
)
def test_an_upload_needs_a_name_that_its_key_is_for(city: Running, name: str | None, told: str) -> None:
    before = city.parts.store.keys("")
    answer = push(city, "acme", **({"name": name} if name else {}))
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")
    assert "publishes only as acme.*" in answer.json()["detail"] and told in answer.json()["detail"]
    assert "acme.net" in answer.json()["hint"]
    assert city.parts.store.keys("") == before
    assert push(city, "acme", name="acme.new").status_code == 202
    assert push(city, "all", content=b"other").status_code == 202
    assert push(city, "reader", name="acme.new").status_code == 403


def test_a_model_that_is_being_ingested_is_seen_by_the_name_that_it_is_to_have(city: Running) -> None:
    pushed = push(city, "all", name="acme.new").json()
    for key, kind in (("acme", "model-not-ready"), ("root", "model-not-ready"), ("other", "model-not-found")):
        assert ask(city, key, f"/models/{pushed['id']}").json()["type"] == f"/problems/{kind}"
    path = f"/operations/{pushed['operation']}"
    assert [status(city, key, path) for key in ("acme", "reader", "other", "one")] == [200, 200, 404, 404]
    assert [status(city, key, path, "DELETE") for key in ("other", "reader")] == [404, 403]
    assert ask(city, "acme", path, "DELETE").json()["state"] == "cancelled"


def test_what_others_wait_for_too_is_not_cancelled(city: Running) -> None:
    pushed = push(city, "acme", name="acme.new").json()
    assert push(city, "other", name="other.new").json() == pushed
    refused = ask(city, "acme", f"/operations/{pushed['operation']}", "DELETE")
    assert refused.status_code == 403
    assert "names besides acme.*" in refused.json()["detail"] and "other" not in refused.json()["detail"]
    assert status(city, "all", f"/operations/{pushed['operation']}", "DELETE") == 202


def test_without_a_name_a_model_is_its_uploaders(city: Running, both: str) -> None:
    id = copied(city, both, "m" + "b" * 24, "acme")
    assert [status(city, key, f"/models/{id}") for key in ("acme", "reader", "all")] == [200, 404, 200]
    assert [model["id"] for model in ask(city, "acme", "/models").json()["models"]].count(id) == 1
    city.parts.store.create(wanted_key(id, "other.new"), b"{}")
    assert [status(city, key, f"/models/{id}") for key in ("acme", "other")] == [404, 200]


def test_the_operation_of_an_upload_that_is_gone_is_told_to_its_uploader(city: Running) -> None:
    pushed = push(city, "acme", name="acme.new").json()
    city.parts.catalogue.discard(pushed["id"])
    path = f"/operations/{pushed['operation']}"
    assert [status(city, key, path) for key in ("acme", "other", "reader")] == [200, 404, 404]
    assert status(city, "acme", path, "DELETE") == 202


def test_deleting_by_some_names_takes_all_of_the_models(city: Running, both: str) -> None:
    own = copied(city, both, "m" + "a" * 24, "other", "acme.one", "acme.two")
    for key in ("acme", "reader"):
        assert status(city, key, f"/models/{own}", "DELETE") == 403
    refused = ask(city, "boss", f"/models/{both}", "DELETE")
    assert (refused.status_code, "names besides acme.*" in refused.json()["detail"]) == (403, True)
    assert status(city, "boss", "/models/acme.net", "DELETE") == 403
    city.parts.store.create(wanted_key(own, "other.soon"), b"{}")
    assert status(city, "boss", f"/models/{own}", "DELETE") == 403
    city.parts.store.delete(wanted_key(own, "other.soon"))
    assert status(city, "boss", "/models/acme.one", "DELETE") == 200
    assert status(city, "root", f"/models/{own}") == 410
    assert status(city, "root", f"/models/{both}", "DELETE") == 200


def test_who_sees_everything_is_told_what_is_not_there_and_what_is_not_allowed(city: Running, both: str) -> None:
    assert status(city, "mixed", f"/models/{NOBODY}", "DELETE") == 404
    hidden = copied(city, both, "m" + "a" * 24, "other", "other.net")
    assert [status(city, "mixed", f"/models/{name}", "DELETE") for name in (hidden, "other.net")] == [403, 403]


def test_metrics_are_for_keys_without_names(city: Running) -> None:
    found = {key: status(city, key, "/metrics") for key in KEYS}
    assert {key for key, code in found.items() if code == 200} == {"mixed", "all", "root"}
    assert set(found.values()) == {200, 403}


def test_names_are_read_only_where_they_matter_and_seldom(
    city: Running, both: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    names = city.parts.catalogue.names
    monkeypatch.setattr(city.parts.catalogue, "names", lambda: read.append(0) or names())  # type: ignore[func-returns-value]
    for key in ("all", "root", "mixed"):
        assert fetched(city, key, both) == 304
    assert fetched(city, "acme", "acme.net") == 304
    assert read == []
    monkeypatch.setattr("rightrank.service.api.access.RECENT_SECONDS", 3600)
    for _ in range(5):
        assert fetched(city, "acme", both) == 304
    assert len(read) == 1


def test_a_name_that_was_just_given_counts_at_once(city: Running, both: str) -> None:
    assert status(city, "acme", f"/models/{both}") == 200  # the names are read, and kept for a moment
    id = copied(city, both, "m" + "c" * 24, "root", "acme.late")
    assert status(city, "acme", f"/models/{id}") == 200
