"""After the faults: asking for everything that was accepted until it has ended, or for long enough."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence

from benchmarks.chaos.clients import Client, look
from benchmarks.chaos.journal import Accepted, Journal

# An operation that is not found is asked for again so often and so long before it counts as lost.
MISSES, MISSED_SECONDS = 5, 10.0
PAUSE = 0.25
# Asking for many operations must not be the load: so long a pause for each of them.
CALM, LONGEST_PAUSE = 0.05, 2.0
QUEUE = re.compile(r'^rightrank_queue_length\{queue="([^"]*)"\} ([0-9.e+]+)$', re.MULTILINE)
AGAIN = ("gave-up",)


def settle(urls: Sequence[str], journal: Journal, seed: int, limit: float) -> float:
    """Seconds until everything had ended and every queue was empty. What does not get there is trouble."""
    client = Client("settler", urls, journal, seed, threading.Event())
    began = time.monotonic()
    deadline = began + limit
    try:
        wait_for_ends(client, journal, deadline)
        if try_again(client, journal):
            wait_for_ends(client, journal, deadline)
        for accepted in journal.open():
            about = f"{accepted.title or accepted.operation} ({accepted.operation}) has not ended"
            journal.trouble("never-ended", accepted.client, f"{about} {limit:g} s after the faults", accepted.at)
        wait_for_queues(client, journal, deadline)
        return time.monotonic() - began
    finally:
        client.http.close()


def wait_for_ends(client: Client, journal: Journal, deadline: float) -> None:
    missed: dict[str, tuple[int, float]] = {}
    while (pool := journal.open()) and time.monotonic() < deadline:
        for accepted in pool:
            if look(client, accepted) != 404:
                missed.pop(accepted.operation, None)
                continue
            count, since = missed.get(accepted.operation, (0, time.monotonic()))
            missed[accepted.operation] = (count + 1, since)
            if count + 1 >= MISSES and time.monotonic() - since > MISSED_SECONDS:
                forgotten(client, journal, accepted)
        client.at += 1
        time.sleep(min(max(PAUSE, CALM * len(pool)), LONGEST_PAUSE))


def forgotten(client: Client, journal: Journal, accepted: Accepted) -> None:
    """An operation that nothing is known of has ended well if what it was to make is there."""
    found = client.ask("GET", f"/models/{accepted.model}", "/models/{id}")
    if found is None or found.status_code == 503:
        return
    if accepted.kind != "cut" and found.status_code == 200:
        journal.ended(accepted.operation, {"done": True, "result": {"model": accepted.model}})
        return
    journal.ended(accepted.operation, {"done": True, "error": {"type": "/problems/forgotten"}})


def try_again(client: Client, journal: Journal) -> bool:
    """Retries uploads whose work was given up; whether any is under way again."""
    again = False
    for accepted in list(journal.uploads.values()):
        if accepted.kind == "sound" and accepted.error in AGAIN and not (accepted.deleted or accepted.cancelled):
            if not journal.near(accepted.ended):
                journal.trouble("gave-up", accepted.client, f"{accepted.title}: without a fault near", accepted.ended)
            answer = client.ask("POST", f"/operations/{accepted.operation}/retry", "/operations/{id}/retry")
            if answer is None or answer.status_code not in (200, 202):
                status = "no answer" if answer is None else answer.status_code
                journal.trouble("retry-refused", accepted.client, f"{accepted.title}: {status}")
                continue
            accepted.end, again = None, True
    return again


def wait_for_queues(client: Client, journal: Journal, deadline: float) -> None:
    """Work that nobody asks for, as measuring ahead, must come to its end too."""

    def waiting() -> dict[str, float] | None:
        answer = client.ask("GET", "/metrics")
        if answer is None or answer.status_code != 200:
            return None
        return {queue: float(length) for queue, length in QUEUE.findall(answer.text)}

    found = waiting()
    while (found is None or any(found.values())) and time.monotonic() < deadline:
        time.sleep(PAUSE)
        found = waiting()
    if found is None or any(found.values()):
        journal.trouble("queue-not-empty", client.name, str(found))


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True
