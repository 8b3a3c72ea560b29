"""The load: publishers, devices, and those that watch. Each writes down what it is answered."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.chaos.journal import Accepted, Answer, Journal, Received, Silence
from benchmarks.chaos.material import Material, Upload
from rightrank.service.client.http import sha256_of

# Longer than the service lets a request wait.
PATIENCE = httpx.Timeout(75.0, connect=5.0)
NAMES = ("alder", "beech", "cedar", "elm")
TRIES = 6


class Client:
    """Asks, and writes down what it hears; as behind a balancer, stays with an address that answers."""

    def __init__(self, name: str, urls: Sequence[str], journal: Journal, seed: int, stop: threading.Event) -> None:
        self.name, self.urls, self.journal, self.stop = name, list(urls), journal, stop
        self.chance = random.Random(f"{seed}-{name}")
        self.at = self.chance.randrange(len(self.urls))
        self.http = httpx.Client(timeout=PATIENCE, trust_env=False, headers={"Accept-Encoding": "identity"})

    @property
    def url(self) -> str:
        return self.urls[self.at % len(self.urls)]

    def ask(self, method: str, path: str, route: str = "", **rest: Any) -> httpx.Response | None:
        """A request and its whole answer; None where there is none."""
        route = route or path
        self.journal.note(self.name, f"{method} {self.url}{path} {brief(rest)}")
        try:
            response = self.http.request(method, self.url + path, **rest)
        except httpx.TransportError as error:
            self.silent(method, route, error)
            return None
        self.heard(method, route, response)
        return response

    def silent(self, method: str, route: str, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        self.journal.note(self.name, f"  – {text}")
        self.journal.silence(Silence(self.name, self.journal.now(), method, route, text))
        self.at += 1

    def heard(self, method: str, route: str, response: httpx.Response) -> None:
        problem = kind_of(response)
        about = response.headers.get("RightRank-Plan", "") or (response.text[:300] if problem else "")
        self.journal.note(self.name, f"  {response.status_code} {problem} {about}")
        self.journal.answer(Answer(self.name, self.journal.now(), method, route, response.status_code, problem))

    def rest(self, least: float, most: float) -> None:
        self.stop.wait(self.chance.uniform(least, most))


class Busy(Client, ABC):
    """A part of the load: does one thing after another until it is told to stop."""

    def run(self) -> None:
        """Works until it is told to stop. An error of its own is trouble too: it ends the load unseen."""
        try:
            while not self.stop.is_set():
                self.work()
        except Exception as error:
            self.journal.trouble("harness", self.name, f"{type(error).__name__}: {error}")
            raise
        finally:
            self.http.close()

    @abstractmethod
    def work(self) -> None:
        """One thing that it does."""


class Publisher(Busy):
    """Uploads, cancels, deletes. `most`: how many uploads may be under way, all publishers together."""

    def __init__(self, *rest: Any, material: Material, numbers: Iterator[int], most: int) -> None:
        super().__init__(*rest)
        self.material, self.numbers, self.most = material, numbers, most

    def work(self) -> None:
        number = next(self.numbers, None)
        if number is None:
            self.stop.wait()
            return
        while self.journal.waiting() >= self.most and not self.stop.is_set():
            self.rest(0.2, 0.5)
        dice = self.chance.random()
        if self.stop.is_set():
            return
        if dice < 0.12:
            self.break_off(number)
        elif dice < 0.32:
            self.publish(self.material.broken(number))
        else:
            name = self.chance.choice(NAMES) if self.chance.random() < 0.5 else ""
            accepted = self.publish(self.material.sound(number, name=name))
            if accepted is not None:
                accepted.name = name
                self.change_mind(accepted, number, name)
        self.rest(0.1, 1.0)

    def publish(self, upload: Upload) -> Accepted | None:
        """Uploads, again and again while no answer comes; what was accepted."""
        self.journal.attempted += 1
        for _ in range(TRIES):
            self.journal.note(self.name, upload.title)
            response = self.ask("POST", "/models", data=upload.fields, files=upload.files)
            if response is not None and response.status_code == 202:
                body = response.json()
                if upload.door:
                    self.journal.trouble("accepted-nonsense", self.name, f"{upload.title} was accepted")
                return self.journal.accept(
                    Accepted(
                        self.name,
                        self.journal.now(),
                        "sound" if upload.sound else "broken",
                        body["id"],
                        body["operation"],
                        upload.title,
                    )
                )
            if response is not None and response.status_code not in (503, 429):
                if upload.sound:
                    self.journal.trouble(
                        "sound-upload-refused",
                        self.name,
                        f"{upload.title}: {response.status_code} {kind_of(response)} {response.text[:300]}",
                    )
                return None
            self.rest(0.5, 2.0)
            if self.stop.is_set():
                return None
        return None

    def change_mind(self, accepted: Accepted, number: int, name: str) -> None:
        """Sometimes the operation is cancelled or the model deleted, and sometimes uploaded anew after that."""
        dice = self.chance.random()
        if dice < 0.1:
            self.rest(0.0, 3.0)
            accepted.cancelled = True
            self.ask("DELETE", f"/operations/{accepted.operation}", "/operations/{id}")
        elif dice < 0.25:
            for _ in range(20 if dice < 0.2 else 0):
                if accepted.end is None and not self.stop.is_set():
                    self.rest(0.5, 1.0)
            self.delete(accepted)
            if accepted.gone and self.chance.random() < 0.5:
                self.rest(0.0, 2.0)
                again = self.publish(self.material.sound(number, name=name))
                if again is not None:
                    again.name = name
                else:
                    accepted.unsure = True

    def delete(self, accepted: Accepted) -> None:
        accepted.deleted = True
        for _ in range(TRIES):
            response = self.ask("DELETE", f"/models/{accepted.model}", "/models/{id}")
            if response is not None and response.status_code in (200, 202, 204, 404):
                accepted.gone = True
                return
            self.rest(0.5, 1.5)
            if self.stop.is_set():
                return

    def break_off(self, number: int) -> None:
        """Half an upload, then the connection is closed."""
        upload = self.material.sound(number)
        request = self.http.build_request("POST", self.url + "/models", data=upload.fields, files=upload.files)
        body = request.read()
        self.journal.note(self.name, f"POST {self.url}/models, broken off")
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        parts = urlsplit(self.url)
        try:
            with socket.create_connection((parts.hostname, parts.port or 80), 5.0) as connection:
                connection.sendall(f"POST /models HTTP/1.1\r\n{head}\r\n".encode())
                connection.sendall(body[: self.chance.randrange(len(body))])
                self.rest(0.0, 0.5)
        except OSError as error:
            self.silent("POST", "/models", error)


class Device(Busy):
    """Fetches sizes of models, in every way that HTTP has for it."""

    def work(self) -> None:
        model = self.journal.some(self.chance)
        if model is None:
            self.rest(0.3, 0.6)
            return
        ready = model.ready
        size = self.size()
        way = self.chance.choice((self.plainly, self.in_pieces, self.conditionally, self.impatiently, self.head))
        response = way(f"/models/{model.model}", size)
        if response is not None:
            self.judge(model, ready and model.ready, response)
        self.rest(0.05, 0.8)

    def size(self) -> dict[str, str]:
        """What the query says: of few values, so that others ask for the same."""
        dice = self.chance.random()
        if dice < 0.6:
            return {"budget": f"{self.chance.randrange(20, 101, 5) / 100:g}"}
        if dice < 0.8:
            return {"budget": f"{self.chance.randrange(20, 101, 10) / 100:g}", "of": "macs"}
        return {"max_bytes": str(self.chance.randrange(60_000, 200_000, 20_000))}

    def judge(self, model: Accepted, ready: bool, response: httpx.Response) -> None:
        """What may be answered depends on whether the model has to be there."""
        status = response.status_code
        if operation := awaited(response):
            self.journal.accept(
                Accepted(self.name, self.journal.now(), "cut", model.model, operation, str(response.url))
            )
        elif ready and status not in (200, 202, 206, 304, 503, 500):
            self.journal.trouble(
                "ready-model-refused", self.name, f"{response.url}: {status} {kind_of(response)} {response.text[:300]}"
            )
        elif not ready and status in (400, 405, 416, 422):
            self.journal.trouble("wrong-refusal", self.name, f"{response.url}: {status} {response.text[:300]}")

    def fetch(self, path: str, size: Mapping[str, str], headers: Mapping[str, str]) -> httpx.Response | None:
        return self.ask("GET", path, "/models/{id}?size", params=dict(size), headers=dict(headers))

    def patience(self) -> dict[str, str]:
        return self.chance.choice(({}, {"Prefer": f"wait={self.chance.randrange(10)}"}))

    def plainly(self, path: str, size: Mapping[str, str]) -> httpx.Response | None:
        response = self.fetch(path, size, self.patience())
        if response is not None and response.status_code == 200:
            self.receive(response, response.content)
        return response

    def impatiently(self, path: str, size: Mapping[str, str]) -> httpx.Response | None:
        """Without waiting for what is not there yet."""
        response = self.fetch(path, size, {"Prefer": "respond-async"})
        if response is not None and response.status_code == 200:
            self.receive(response, response.content)
        return response

    def in_pieces(self, path: str, size: Mapping[str, str]) -> httpx.Response | None:
        """The file in pieces, each asked for as the rest of the one before it."""
        response = self.fetch(path, size, {**self.patience(), "Range": f"bytes=0-{self.chance.randrange(1, 80_000)}"})
        data, etag = b"", ""
        while response is not None and response.status_code in (200, 206):
            if response.status_code == 200:
                self.receive(response, response.content)
                return response
            span, _, total = response.headers["Content-Range"].removeprefix("bytes ").partition("/")
            if int(span.split("-")[0]) != len(data) or (etag and response.headers["ETag"] != etag):
                self.journal.trouble("wrong-range", self.name, f"{response.url}: {span} after {len(data)} bytes")
                return response
            data, etag = data + response.content, response.headers["ETag"]
            if len(data) == int(total):
                self.receive(response, data)
                return response
            stop = min(len(data) + self.chance.randrange(1, 120_000), int(total) - 1)
            following = self.fetch(path, size, {"Range": f"bytes={len(data)}-{stop}", "If-Range": etag})
            if following is None or following.status_code not in (200, 206):
                return following
            response = following
        return response

    def conditionally(self, path: str, size: Mapping[str, str]) -> httpx.Response | None:
        """Once with an ETag that it never had, then with the one that came."""
        response = self.fetch(path, size, {**self.patience(), "If-None-Match": f'"{"0" * 64}"'})
        if response is None or response.status_code != 200:
            if response is not None and response.status_code == 304:
                self.journal.trouble("wrong-304", self.name, f"{response.url}: an ETag that no file has")
            return response
        self.receive(response, response.content)
        etag = response.headers["ETag"]
        again = self.fetch(path, size, {"If-None-Match": etag})
        if again is not None and again.status_code in (200, 304) and again.headers["ETag"] != etag:
            self.journal.trouble("etag-changed", self.name, f"{again.url}: {etag}, then {again.headers['ETag']}")
        return again

    def head(self, path: str, size: Mapping[str, str]) -> httpx.Response | None:
        return self.ask("HEAD", path, "/models/{id}?size", params=dict(size), headers=self.patience())

    def receive(self, response: httpx.Response, data: bytes) -> None:
        headers = response.headers
        announced = sha256_of(headers.get("Repr-Digest", "")) or b""
        self.journal.receive(
            Received(
                self.name,
                self.journal.now(),
                headers.get("RightRank-Model", ""),
                headers.get("RightRank-Plan", ""),
                headers.get("ETag", ""),
                announced.hex(),
                hashlib.sha256(data).hexdigest(),
            )
        )


class Watcher(Busy):
    """Asks how operations are doing."""

    def work(self) -> None:
        pool = self.journal.open()
        if not pool:
            self.rest(0.2, 0.5)
            return
        look(self, self.chance.choice(pool))
        self.rest(0.05, 0.4)


class Listener(Busy):
    """Follows operations by their events."""

    def work(self) -> None:
        pool = self.journal.open()
        if not pool:
            self.rest(0.2, 0.5)
            return
        accepted = self.chance.choice(pool)
        path, route = f"/operations/{accepted.operation}/events", "/operations/{id}/events"
        self.journal.note(self.name, f"GET {self.url}{path}")
        try:
            with self.http.stream("GET", self.url + path, timeout=httpx.Timeout(30.0, connect=5.0)) as response:
                if response.status_code != 200:
                    response.read()
                    self.heard("GET", route, response)
                else:
                    self.journal.answer(Answer(self.name, self.journal.now(), "GET", route, 200, ""))
                    self.follow(accepted, response)
        except httpx.TransportError as error:
            self.silent("GET", route, error)
        self.rest(0.1, 0.5)

    def follow(self, accepted: Accepted, response: httpx.Response) -> None:
        event = ""
        for line in response.iter_lines():
            if self.stop.is_set():
                return
            name, _, value = line.partition(":")
            if name == "event":
                event = value.strip()
            elif name == "data" and event == "done":
                self.journal.note(self.name, f"  done {value.strip()[:300]}")
                self.journal.ended(accepted.operation, json.loads(value))
                return


class Visitor(Busy):
    """Looks at all that is to be read besides."""

    def work(self) -> None:
        model = self.journal.some(self.chance, 0.0)
        paths = [("/models", "/models"), ("/healthz", "/healthz"), ("/readyz", "/readyz"), ("/metrics", "/metrics")]
        paths += [("/", "/"), (f"/models/{self.chance.choice(NAMES)}", "/models/{name}")]
        if model is not None:
            paths += [
                (f"/models/{model.model}", "/models/{id}"),
                (f"/models/{model.model}/curve", "/models/{id}/curve"),
            ]
        path, route = self.chance.choice(paths)
        ready = model is not None and model.ready
        response = self.ask("GET", path, route)
        if (
            response is not None
            and "{id}" in route
            and ready
            and model is not None
            and model.ready
            and response.status_code not in (200, 500, 503)
        ):
            self.journal.trouble("ready-model-refused", self.name, f"{path}: {response.status_code} {response.text}")
        self.rest(0.2, 1.0)


def look(client: Client, accepted: Accepted) -> int:
    """Asks for an operation once and notes its end; the status, 0 where no answer came."""
    response = client.ask("GET", f"/operations/{accepted.operation}", "/operations/{id}")
    if response is None:
        return 0
    if response.status_code == 200:
        document = response.json()
        if document.get("done"):
            client.journal.ended(accepted.operation, document)
    return response.status_code


def crowd(
    urls: Sequence[str],
    journal: Journal,
    material: Material,
    seed: int,
    count: int,
    most: int,
    stop: threading.Event,
) -> list[Busy]:
    """So many clients: a fifth publishes, a fifth watches, the others are devices; at least one of each. `most`: how
    many uploads may be under way."""
    numbers = locked(itertools.count())
    shares: list[tuple[Callable[..., Busy], str, int]] = [
        (Publisher, "publisher", max(1, count // 5)),
        (Watcher, "watcher", max(1, count // 12)),
        (Listener, "listener", max(1, count // 12)),
        (Visitor, "visitor", 1),
    ]
    devices = max(1, count - sum(number for _, _, number in shares))
    found: list[Busy] = []
    for kind, name, number in [*shares, (Device, "device", devices)]:
        for each in range(1, number + 1):
            more = {"material": material, "numbers": numbers, "most": most} if kind is Publisher else {}
            found.append(kind(f"{name}-{each}", urls, journal, seed, stop, **more))
    return found


def locked(numbers: Iterator[int]) -> Iterator[int]:
    """The same numbers for several threads."""
    lock = threading.Lock()

    class Shared(Iterator[int]):
        def __next__(self) -> int:
            with lock:
                return next(numbers)

    return Shared()


def kind_of(response: httpx.Response) -> str:
    """The kind of problem that an answer is; "" for one that is none."""
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return ""
    try:
        return str(response.json().get("type", "")).rsplit("/", 1)[-1]
    except ValueError:
        return ""


def awaited(response: httpx.Response) -> str:
    """The operation that makes a size which is not there yet, "" where the answer names none: a 202 does (HEAD has it
    without a body), and a 503 may."""
    operation = ""
    if response.status_code == 202:
        operation = response.headers["Location"]
    elif response.status_code == 503 and kind_of(response):
        operation = str(response.json().get("operation", ""))
    operation = operation.rsplit("/", 1)[-1]
    return operation if operation.startswith("cut-") else ""


def brief(rest: Mapping[str, Any]) -> str:
    """What of a request's arguments a line of the log has room for."""
    return " ".join(f"{key}={rest[key]}" for key in ("params", "headers", "data") if rest.get(key))
