"""Which service a command asks, and the connection to it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from rightrank.service.client.http import Client

Url = Annotated[str, typer.Option(envvar="RIGHTRANK_URL", help="The server. Its key is read from RIGHTRANK_KEY.")]
LOCAL = "http://127.0.0.1:8000"


def connect(url: str) -> Client:
    return Client(url, os.environ.get("RIGHTRANK_KEY"))
