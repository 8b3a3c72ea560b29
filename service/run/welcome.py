"""`rightrank serve --demo`: a small trained model in an otherwise empty service, and how to fetch it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from rich.console import Console

from rightrank.service.client.bars import Bars
from rightrank.service.client.http import Client, ClientError, Problem
from rightrank.service.run.processes import TICK, Say

NAME = "demo"
# Each size is fitted to the original when it is first asked for.
OPTIONS = {"effort": "refit"}
# Ends with 0 only where it has the whole file, and shows its headers.
CURL = "curl -fsSL --retry 10 --retry-connrefused -D -"
TRAINING = [sys.executable, "-m", "rightrank.service.run.demo"]


def demonstrate(address: str, end: threading.Event, say: Say) -> None:
    """Publishes the demo unless it is there, and says how to use it; gives up quietly once `end` is set."""
    try:
        with Client(address, os.environ.get("RIGHTRANK_KEY")) as client:
            if exists(client) or publish(client, end):
                say(instructions(address))
    except (ClientError, OSError, subprocess.SubprocessError) as error:
        if not end.is_set():
            say(f"The demo could not be published: {error}")


def exists(client: Client) -> bool:
    try:
        client.show(NAME)
    except Problem as problem:
        if problem.status == 404:
            return False
        raise
    return True


def publish(client: Client, end: threading.Event) -> bool:
    """Trains, uploads and waits; False if `end` came first."""
    with tempfile.TemporaryDirectory(prefix="rightrank-demo-") as folder:
        with subprocess.Popen([*TRAINING, folder]) as trainer:
            while trainer.poll() is None:
                if end.wait(TICK):
                    trainer.terminate()
        if end.is_set():
            return False
        if trainer.returncode:
            raise subprocess.CalledProcessError(trainer.returncode, "the training")
        with Bars(Console(stderr=True)) as bars:
            answer = client.push(
                Path(folder, "demo.pt2"),
                name=NAME,
                evaluation=Path(folder, "evaluation.safetensors"),
                calibration=Path(folder, "calibration.safetensors"),
                options=OPTIONS,
                progress=bars,
            )
            client.wait(str(answer["operation"]), bars)
    return True


def instructions(address: str) -> str:
    return f"""
Fetch the demo at three tenths of its size:

  {CURL} -o demo.part '{address}/models/{NAME}?budget=0.3' && mv demo.part demo.pt

and run it:

  import torch
  print(torch.jit.load("demo.pt")(torch.rand(1, 1, 8, 8)).argmax().item())
"""
