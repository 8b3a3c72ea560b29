"""A server that answers what a test says, and the command that asks it."""

import httpx
import pytest
from typer.testing import CliRunner

from rightrank.service import cli
from rightrank.service.cli import connection
from rightrank.service.client.http import Client

NOT_FOUND = {
    "type": "/problems/model-not-found",
    "title": "There is no such model",
    "status": 404,
    "detail": "There is no model 'x'.",
    "hint": "See GET /models.",
}


def run(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def server(monkeypatch):
    """Answers by method and path; what was asked is in `requests`."""

    class Fake:
        def __init__(self):
            self.answers, self.requests = {}, []

        def __call__(self, request):
            request.read()
            self.requests.append(request)
            answer = self.answers.get((request.method, request.url.path))
            return answer() if answer else httpx.Response(404, json=NOT_FOUND)

    fake = Fake()
    monkeypatch.setattr(connection, "connect", lambda url: Client(url, transport=httpx.MockTransport(fake)))
    return fake
