import base64
import errno
import hashlib
import json
import os
from types import SimpleNamespace

import httpx
import pytest

from rightrank.service.client import http as module
from rightrank.service.client.http import Client, Damaged, Problem, Unreachable, Unwritable, sha256_of

BODY = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)


def client(handler):
    return Client("http://service.test", key="rr_secret", transport=httpx.MockTransport(handler))


class Server:
    """Serves BODY as the artifact does, and breaks off after `breaks` bytes as often as it is told to."""

    def __init__(self, body=BODY, breaks=()):
        self.body, self.breaks, self.requests = body, list(breaks), []

    def __call__(self, request):
        self.requests.append(request)
        digest = hashlib.sha256(self.body).digest()
        etag = f'"{digest.hex()}"'
        headers = {
            "ETag": etag,
            "Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
            "RightRank-Budget": "0.3",
        }
        first = 0
        if "range" in request.headers and request.headers.get("if-range") == etag:
            first = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
        if first > len(self.body) - 1:
            return httpx.Response(416)
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(self.body) - 1}/{len(self.body)}"
        headers["Content-Length"] = str(len(self.body) - first)
        stream = Breaking(self.body[first:], self.breaks.pop(0) if self.breaks else None)
        return httpx.Response(206 if first else 200, headers=headers, stream=stream)


class Breaking(httpx.SyncByteStream):
    def __init__(self, body, after):
        self.body, self.after = body, after

    def __iter__(self):
        yield self.body[: self.after]
        if self.after is not None:
            raise httpx.ReadError("connection reset")


def test_a_download_appears_under_its_name_only_once_it_is_whole(tmp_path):
    seen = []
    with client(Server()) as c:
        c.pull("demo", {"budget": 0.3}, tmp_path / "f", lambda *now: seen.append((tmp_path / "f").exists()))
    assert seen and not any(seen)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_broken_download_goes_on_where_it_stopped(tmp_path):
    server = Server(breaks=[1000, 3000])
    with client(server) as c:
        headers = c.pull("demo", {"budget": 0.3}, tmp_path / "f")
    assert [r.headers.get("range") for r in server.requests] == [None, "bytes=1000-", "bytes=4000-"]
    assert (tmp_path / "f").read_bytes() == BODY
    assert headers["rightrank-budget"] == "0.3"


def test_a_part_left_by_an_earlier_run_is_continued(tmp_path):
    with client(Server(breaks=[1000] + [0] * 10)) as c, pytest.raises(Unreachable):
        c.pull("demo", {}, tmp_path / "f")
    assert (tmp_path / "f.part").stat().st_size == 1000
    server = Server()
    with client(server) as c:
        c.pull("demo", {}, tmp_path / "f")
    assert server.requests[0].headers["range"] == "bytes=1000-"
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_part_of_another_file_is_not_mixed_with_this_one(tmp_path):
    with client(Server(breaks=[1000] + [0] * 10)) as c, pytest.raises(Unreachable):
        c.pull("demo", {}, tmp_path / "f")
    with client(Server(body=BODY[::-1])) as c:
        c.pull("demo", {}, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY[::-1]


def test_a_part_whose_bytes_were_changed_is_fetched_anew(tmp_path):
    with client(Server(breaks=[1000] + [0] * 10)) as c, pytest.raises(Unreachable):
        c.pull("demo", {}, tmp_path / "f")
    (tmp_path / "f.part").write_bytes(b"\0" * 1000)
    with client(Server()) as c:
        c.pull("demo", {}, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_part_that_is_whole_already_is_checked_by_fetching_it_anew(tmp_path):
    (tmp_path / "f.part").write_bytes(BODY)
    (tmp_path / "f.part.etag").write_text(f'"{hashlib.sha256(BODY).hexdigest()}"')
    with client(Server()) as c:
        c.pull("demo", {}, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize("digest", ["", "sha-512=:AAAA:", "sha-256=:AAAA:", "sha-256=:not base64:"])
def test_bytes_without_the_announced_digest_are_never_kept(tmp_path, digest):
    def liar(request):
        return httpx.Response(200, headers={"ETag": '"x"', "Repr-Digest": digest}, stream=Breaking(BODY, None))

    with client(liar) as c, pytest.raises(Damaged):
        c.pull("demo", {}, tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_not_ready_is_waited_for(tmp_path):
    server = Server()
    answers = [
        httpx.Response(202, json={"operation": "cut-1"}),
        httpx.Response(200, json={"done": False, "progress": {"phase": "measuring", "completed": 1, "total": 2}}),
        httpx.Response(200, json={"done": True, "result": {}}),
    ]
    paths = []

    def handler(request):
        paths.append(request.url.path)
        return answers.pop(0) if answers else server(request)

    phases = []
    with client(handler) as c:
        c.pull("demo", {"budget": 0.3}, tmp_path / "f", lambda phase, *rest: phases.append(phase))
    assert paths == ["/models/demo", "/operations/cut-1", "/operations/cut-1", "/models/demo"]
    assert phases[0] == "measuring"


@pytest.mark.parametrize("kind", ["not-ready", "model-not-ready"])
def test_a_refusal_that_names_an_operation_is_waited_for(tmp_path, kind):
    server, paths = Server(), []
    problem = {"type": f"/problems/{kind}", "status": 503, "operation": "/operations/cut-1"}
    answers = [httpx.Response(503, json=problem), httpx.Response(200, json={"done": True, "result": {}})]

    def handler(request):
        paths.append(request.url.path)
        return answers.pop(0) if answers else server(request)

    with client(handler) as c:
        c.pull("demo", {"budget": 0.3}, tmp_path / "f")
    assert paths == ["/models/demo", "/operations/cut-1", "/models/demo"]
    assert server.requests[0].headers["prefer"] == "respond-async, wait=20"
    assert (tmp_path / "f").read_bytes() == BODY


def test_who_asks_for_what_is_ready_waits_for_nothing(tmp_path):
    requests = []

    def unready(request):
        requests.append(request)
        return httpx.Response(503, json={"type": "/problems/not-ready", "operation": "/operations/cut-1"})

    with client(unready) as c, pytest.raises(Problem):
        c.pull("demo", {"budget": 0.3, "ready": 1}, tmp_path / "f")
    assert [dict(request.url.params) for request in requests] == [{"budget": "0.3", "ready": "1"}]
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_has_what_it_made_is_left_in_the_end(tmp_path):
    def handler(request):
        if request.url.path.startswith("/operations"):
            return httpx.Response(200, json={"done": True, "result": {}})
        return httpx.Response(202, json={"operation": "cut-1"})

    with client(handler) as c, pytest.raises(Unreachable, match="again and again"):
        c.pull("demo", {}, tmp_path / "f")


def test_sizes_that_are_measured_one_after_the_other_are_waited_for_to_the_last(tmp_path):
    """To certify one, as many as there are in a row."""
    server = Server()
    left = [f"cut-{number}" for number in range(33)]

    def handler(request):
        if request.url.path.startswith("/operations"):
            return httpx.Response(200, json={"done": True, "result": {}})
        return httpx.Response(202, json={"operation": left.pop(0)}) if left else server(request)

    with client(handler) as c:
        c.pull("demo", {"min_accuracy": 0.9, "confidence": 0.95}, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY and not left


@pytest.mark.parametrize("etag", [b"\0" * 66, b"", b"\xff\xfe", b'W/"x"', b"x", b'"x"\r\nX: y', b'"x" "y"'])
def test_an_etag_that_is_none_is_thrown_away_with_its_part(tmp_path, etag):
    (tmp_path / "f.part").write_bytes(BODY[:1000])
    (tmp_path / "f.part.etag").write_bytes(etag)
    server = Server()
    with client(server) as c:
        c.pull("demo", {}, tmp_path / "f")
    assert [r.headers.get("range") for r in server.requests] == [None]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_part_that_lost_its_bytes_to_a_power_cut_is_fetched_anew(tmp_path):
    (tmp_path / "f.part").write_bytes(bytes(5000))
    (tmp_path / "f.part.etag").write_text(f'"{hashlib.sha256(BODY).hexdigest()}"')
    with client(Server()) as c:
        c.pull("demo", {}, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_part_larger_than_the_file_is_fetched_anew(tmp_path):
    (tmp_path / "f.part").write_bytes(BODY * 2)
    (tmp_path / "f.part.etag").write_text(f'"{hashlib.sha256(BODY).hexdigest()}"')
    server = Server()
    with client(server) as c:
        c.pull("demo", {}, tmp_path / "f")
    assert len(server.requests) == 2
    assert (tmp_path / "f").read_bytes() == BODY


def test_the_etag_is_on_the_disk_before_the_first_byte(tmp_path, monkeypatch):
    """In the order in which they are asked for: the ETag's bytes, its name, the part's bytes."""
    synced, fsync = [], os.fsync

    def note(descriptor):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((name, (tmp_path / "f.part").stat().st_size if name != tmp_path.name else None))
        fsync(descriptor)

    monkeypatch.setattr(module.os, "fsync", note)
    with client(Server()) as c:
        c.pull("demo", {}, tmp_path / "f")
    folder = (tmp_path.name, None)
    assert synced == [("f.part.etag.new", 0), folder, ("f.part", len(BODY)), folder]


def test_a_file_that_there_is_no_room_for_is_not_begun(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"old")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(total=10**6, free=100))
    server = Server()
    with client(server) as c, pytest.raises(Unwritable, match="10,240 more bytes, and 100 are free"):
        c.pull("demo", {}, tmp_path / "f")
    assert len(server.requests) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["f"] and (tmp_path / "f").read_bytes() == b"old"


def test_a_disk_that_fills_up_meanwhile_is_not_left_full(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"old")
    write = os.write

    def full(descriptor, data):
        if os.fstat(descriptor).st_size >= 4000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:1500])

    monkeypatch.setattr(module.os, "write", full)
    with client(Server()) as c, pytest.raises(Unwritable, match=r"No space left.*the file is as it was"):
        c.pull("demo", {}, tmp_path / "f")
    assert [p.name for p in tmp_path.iterdir()] == ["f"] and (tmp_path / "f").read_bytes() == b"old"
    monkeypatch.setattr(module.os, "write", write)
    with client(Server()) as c:
        c.pull("demo", {}, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_of_two_downloads_to_one_file_one_is_refused_and_the_other_whole(tmp_path):
    refused = []

    def second(*now):
        if not refused:
            with client(Server(body=BODY[::-1])) as c, pytest.raises(Unwritable, match="Another download") as caught:
                c.pull("demo", {}, tmp_path / "f")
            refused.append(caught.value)

    with client(Server()) as c:
        c.pull("demo", {}, tmp_path / "f", second)
    assert refused and (tmp_path / "f").read_bytes() == BODY
    with client(Server(body=BODY[::-1])) as c:
        c.pull("demo", {}, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY[::-1]


def test_a_part_that_became_the_file_while_it_was_opened_is_left_alone(tmp_path, monkeypatch):
    """Another download ends between the opening of its part and the lock."""
    (tmp_path / "f.part").write_bytes(BODY[::-1])
    flock, ended = module.fcntl.flock, []

    def late(descriptor, how):
        if not ended:
            ended.append((tmp_path / "f.part").replace(tmp_path / "f"))
        flock(descriptor, how)

    monkeypatch.setattr(module.fcntl, "flock", late)
    with client(Server(breaks=[1000] + [0] * 10)) as c, pytest.raises(Unreachable):
        c.pull("demo", {}, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY[::-1]
    assert (tmp_path / "f.part").read_bytes() == BODY[:1000]


def test_a_folder_is_no_file_to_download_to(tmp_path):
    requests = []
    with client(lambda request: requests.append(request)) as c, pytest.raises(Unwritable, match="is a folder"):
        c.pull("demo", {}, tmp_path)
    assert not requests


def test_a_failed_operation_fails_in_the_servers_words():
    problem = {
        "type": "/problems/checkpoint-unsafe",
        "status": 422,
        "detail": "It carries a pickle.",
        "hint": "Do.",
    }
    with (
        client(lambda request: httpx.Response(200, json={"done": True, "error": problem})) as c,
        pytest.raises(Problem, match=r"It carries a pickle\. Do\.") as caught,
    ):
        c.wait("ingest-1")
    assert caught.value.kind == "checkpoint-unsafe"
    assert caught.value.status == 422


def test_a_refusal_is_not_repeated(tmp_path):
    requests = []

    def refuse(request):
        requests.append(request)
        return httpx.Response(422, json={"status": 422, "type": "/problems/budget-unreachable", "nearest": 0.05})

    with client(refuse) as c, pytest.raises(Problem) as caught:
        c.pull("demo", {"budget": 0.001}, tmp_path / "f")
    assert len(requests) == 1
    assert caught.value.document["nearest"] == 0.05


def test_a_busy_server_is_asked_again(tmp_path):
    answers = [
        httpx.Response(503, json={"detail": "full"}),
        httpx.Response(429, json={"detail": "slow down"}),
    ]
    server = Server()
    with client(lambda request: answers.pop(0) if answers else server(request)) as c:
        c.pull("demo", {}, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_server_that_is_not_there_is_named(tmp_path):
    def gone(request):
        raise httpx.ConnectError("refused")

    with client(gone) as c, pytest.raises(Unreachable, match=r"http://service\.test"):
        c.pull("demo", {}, tmp_path / "f")


def test_an_answer_that_is_no_problem_document_still_says_what_it_was():
    with client(lambda request: httpx.Response(500, text="<html>")) as c, pytest.raises(Problem, match="500"):
        c.show("demo")


def test_an_upload_carries_its_fields_its_files_and_the_key(tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"N" * 300_000)
    (tmp_path / "eval.npz").write_bytes(b"E" * 100)
    requests = []

    def accept(request):
        request.read()
        requests.append(request)
        return httpx.Response(202, json={"id": "m", "operation": "ingest-m"})

    seen = []
    with client(accept) as c:
        answer = c.push(
            tmp_path / "net.pt2",
            name="net",
            architecture='{"name": "mlp"}',
            evaluation=tmp_path / "eval.npz",
            options={"criterion": "x"},
            progress=lambda *now: seen.append(now),
        )
    assert answer == {"id": "m", "operation": "ingest-m"}
    body = requests[0].content
    assert requests[0].headers["authorization"] == "Bearer rr_secret"
    assert int(requests[0].headers["content-length"]) == len(body)
    for part in (
        b'name="checkpoint"',
        b"N" * 300_000,
        b'name="evaluation"',
        b'name="name"',
        b'{"name": "mlp"}',
    ):
        assert part in body
    assert b'name="calibration"' not in body
    assert json.dumps({"criterion": "x"}).encode() in body
    assert seen[-1] == ("uploading", 300_100, 300_100, "bytes")


def test_every_page_of_the_models_is_read():
    pages = {None: {"models": [{"id": "a"}], "next": "2"}, "2": {"models": [{"id": "b"}], "next": None}}
    with client(lambda request: httpx.Response(200, json=pages[request.url.params.get("cursor")])) as c:
        assert [m["id"] for m in c.models()] == ["a", "b"]


def test_a_reference_cannot_leave_its_place_in_the_path():
    paths = []

    def handler(request):
        paths.append(request.url.raw_path)
        return httpx.Response(200, json={})

    with client(handler) as c:
        c.show("../operations/x?y")
    assert paths == [b"/models/..%2Foperations%2Fx%3Fy"]


def test_the_digest_is_found_among_others():
    digest = hashlib.sha256(b"x").digest()
    field = f"sha-512=:AAAA:, sha-256=:{base64.b64encode(digest).decode()}:"
    assert sha256_of(field) == digest
