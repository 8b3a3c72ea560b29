import subprocess
import sys
import threading

import httpx
import pytest

from rightrank.service.client.http import Client
from rightrank.service.run import welcome


@pytest.fixture
def answering(monkeypatch):
    """Has every client get this answer; what was asked is returned."""

    def answer(status, body):
        asked = []

        def handler(request):
            asked.append((request.method, request.url.path))
            return httpx.Response(status, json=body)

        transport = httpx.MockTransport(handler)
        monkeypatch.setattr(welcome, "Client", lambda url, key: Client(url, transport=transport))
        return asked

    return answer


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def test_a_demo_that_is_there_is_not_made_again(answering, no_training):
    said = []
    asked = answering(200, {"id": "m1"})
    welcome.demonstrate("http://127.0.0.1:8000", threading.Event(), said.append)
    assert asked == [("GET", "/models/demo")]
    assert "-o demo.part 'http://127.0.0.1:8000/models/demo?budget=0.3' && mv demo.part demo.pt\n" in said[0]


def test_a_service_that_ends_meanwhile_is_no_failure(answering, monkeypatch):
    said, end = [], threading.Event()
    end.set()
    answering(404, {"detail": "none"})
    monkeypatch.setattr(welcome, "TRAINING", [sys.executable, "-c", "import time; time.sleep(1000)"])
    welcome.demonstrate("http://127.0.0.1:8000", end, said.append)
    assert said == []


def test_a_training_that_fails_is_told_and_ends_nothing(answering, monkeypatch):
    said = []
    answering(404, {"detail": "none"})
    monkeypatch.setattr(welcome, "TRAINING", ["false"])
    welcome.demonstrate("http://127.0.0.1:8000", threading.Event(), said.append)
    assert "could not be published" in said[0]


def test_a_service_that_refuses_is_told_and_ends_nothing(answering, no_training):
    said = []
    answering(403, {"detail": "The key does not have the scope."})
    welcome.demonstrate("http://127.0.0.1:8000", threading.Event(), said.append)
    assert "The key does not have the scope." in said[0]
