"""What must not be, of all that was seen. Each rule adds to the journal's troubles."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.chaos import family, settle
from benchmarks.chaos.clients import Client, kind_of
from benchmarks.chaos.journal import Accepted, Journal
from benchmarks.chaos.material import runs
from benchmarks.chaos.setups import Setup

# An upload that cannot become a model is told one of these.
BLAME = frozenset(
    {"checkpoint-unusable", "checkpoint-unsafe", "checkpoint-unsupported", "checkpoint-malformed", "data-unusable"}
)
# The service's own failures that it may own up to where a fault is near.
TRIED = frozenset({"worker-lost", "gave-up"})
# Memory: this often what it was, and so many bytes on top.
FACTOR, ALLOWANCE = 2.0, 64 << 20
BACK_SECONDS = 60.0
FETCH_SECONDS = 120.0


def files(journal: Journal) -> None:
    """Every file is the one that its headers announce, and that of a plan never changes."""
    first: dict[tuple[str, str], str] = {}
    for received in journal.received:
        if received.etag != f'"{received.sha256}"' or received.announced != received.sha256:
            journal.trouble(
                "damaged-file",
                received.client,
                f"{received.model} plan {received.plan}: ETag {received.etag}, Repr-Digest {received.announced}, "
                f"the bytes' SHA-256 {received.sha256}",
                received.at,
            )
        known = first.setdefault((received.model, received.plan), received.etag)
        if known != received.etag:
            journal.trouble(
                "etag-changed",
                received.client,
                f"{received.model} plan {received.plan}: {known}, then {received.etag}",
                received.at,
            )


def answers(journal: Journal) -> None:
    """The service never says that the fault is its own, but for 503."""
    for answer in journal.answers:
        if answer.status >= 500 and answer.status != 503:
            what = f"{answer.method} {answer.route}: {answer.status} {answer.problem}"
            journal.trouble(f"answered-{answer.status}", answer.client, what, answer.at)


def ends(journal: Journal) -> None:
    """Everything accepted has become what it was to be, or says why not."""
    for accepted in [*journal.uploads.values(), *journal.cuts.values()]:
        if accepted.end is not None and (kind := wrong_end(accepted, journal)):
            detail = (accepted.end.get("error") or {}).get("detail", "")
            about = f"{accepted.title or accepted.kind} ({accepted.operation}): {accepted.error or 'done'}. {detail}"
            journal.trouble(kind, accepted.client, about, accepted.ended)


def wrong_end(accepted: Accepted, journal: Journal) -> str:
    """What is wrong with how an operation ended, "" where nothing is."""
    error = accepted.error
    upload = accepted if accepted.kind != "cut" else journal.uploads.get(f"ingest-{accepted.model}")
    taken_back = upload is not None and (upload.cancelled or upload.deleted or upload.unsure)
    if error == "internal":
        return "ended-internal"
    if error in TRIED:
        return "" if journal.near(accepted.ended) else "failed-without-a-fault"
    if accepted.kind == "broken":
        if not error:
            return "nonsense-became-a-model"
        return "" if error in BLAME or taken_back else "wrong-reason"
    if not error or taken_back:
        return ""
    if error == "forgotten":
        return f"{accepted.kind}-forgotten"
    return "sound-upload-blamed" if error in BLAME else f"{accepted.kind}-failed"


def models(setup: Setup, journal: Journal, seed: int) -> None:
    """Every model can be fetched and runs, is listed by every API under its names, and what was deleted is gone."""
    client = Client("verdict", setup.urls, journal, seed, threading.Event())
    sound = [each for each in journal.uploads.values() if each.kind == "sound"]
    there = [each for each in sound if each.end and not each.error and not each.deleted and not each.unsure]
    gone = [each for each in sound if each.gone and not each.unsure]
    for accepted in there:
        fetchable(client, journal, accepted)
    for accepted in gone:
        answer = patiently(client, f"/models/{accepted.model}", {})
        if answer is None or answer.status_code not in (404, 410):
            status = answer.status_code if answer is not None else "no answer"
            journal.trouble("deleted-model-back", accepted.client, f"{accepted.model}: {status}")
    for url in setup.urls:
        client.urls, client.at = [url], 0
        listed = listing(client)
        if listed is None:
            journal.trouble("no-listing", client.name, url)
            continue
        for accepted in there:
            if accepted.model not in listed:
                journal.trouble("model-not-listed", accepted.client, f"{accepted.model} at {url}")
            elif accepted.name and not any(each.startswith(f"{accepted.name}@") for each in listed[accepted.model]):
                journal.trouble("name-lost", accepted.client, f"{accepted.model} is not {accepted.name} at {url}")
        for accepted in gone:
            if accepted.model in listed:
                journal.trouble("deleted-model-listed", accepted.client, f"{accepted.model} at {url}")
    client.http.close()


def fetchable(client: Client, journal: Journal, accepted: Accepted) -> None:
    answer = patiently(client, f"/models/{accepted.model}", {"budget": "0.5"})
    if answer is None or answer.status_code != 200:
        what = f"{answer.status_code} {kind_of(answer)} {answer.text[:300]}" if answer is not None else "no answer"
        journal.trouble("model-lost", accepted.client, f"{accepted.title}, {accepted.model}: {what}")
    elif answer.headers.get("ETag") != f'"{hashlib.sha256(answer.content).hexdigest()}"' or not runs(answer.content):
        journal.trouble("file-does-not-run", accepted.client, f"{accepted.title}, {accepted.model}")


def patiently(client: Client, path: str, size: Mapping[str, str]) -> httpx.Response | None:
    """An answer that is neither 202 nor 503, or the last one."""
    deadline = time.monotonic() + FETCH_SECONDS
    while True:
        answer = client.ask("GET", path, "/models/{id}", params=dict(size), headers={"Prefer": "wait=20"})
        if (answer is not None and answer.status_code not in (202, 503)) or time.monotonic() > deadline:
            return answer
        time.sleep(0.5)


def listing(client: Client) -> dict[str, list[str]] | None:
    """Every model that an API lists, with its names; None where it does not."""
    found: dict[str, list[str]] = {}
    cursor = ""
    while True:
        answer = client.ask("GET", "/models", params={"cursor": cursor} if cursor else {})
        if answer is None or answer.status_code != 200:
            return None
        page = answer.json()
        found |= {model["id"]: model.get("names", []) for model in page["models"]}
        cursor = page.get("next") or ""
        if not cursor:
            return found


@dataclass(frozen=True)
class Before:
    """What ran before the faults: how many processes of each role, and the most that one of them held."""

    counts: dict[str, int]
    resident: dict[str, int]

    @staticmethod
    def of(setup: Setup) -> Before:
        found = {role: pool for role, pool in family.roles(setup.processes()).items() if role != "reader"}
        return Before(
            {role: len(pool) for role, pool in found.items()},
            {role: max(each.resident for each in pool) for role, pool in found.items()},
        )


def processes(setup: Setup, journal: Journal, before: Before) -> Before:
    """As many processes of each role as before, no more readers than workers, which keep one ready each, and no more
    memory; what they hold."""

    def back() -> bool:
        now = {role: len(pool) for role, pool in family.roles(setup.processes()).items()}
        return now.pop("reader", 0) <= now.get("worker", 0) and now == before.counts

    if not settle.until(back, BACK_SECONDS):
        now = family.roles(setup.processes())
        found = {role: [(each.pid, " ".join(each.command)[:120]) for each in pool] for role, pool in now.items()}
        journal.trouble("other-processes", "verdict", f"{before.counts} before, now {found}")
    after = Before.of(setup)
    for role, most in before.resident.items():
        now_most = after.resident.get(role, 0)
        if now_most > FACTOR * most + ALLOWANCE:
            journal.trouble("memory-grown", "verdict", f"{role}: {most >> 20} MiB before, {now_most >> 20} MiB now")
    return after


@dataclass
class Disk:
    """Bytes in the store, those that no model needs, and their keys."""

    total: int = 0
    spare: int = 0
    leftovers: list[str] = field(default_factory=list)


def disk(setup: Setup, journal: Journal) -> Disk:
    """Nothing in the folders for work, and nothing in the store that no model needs."""
    if not settle.until(lambda: not setup.scratch(), BACK_SECONDS):
        journal.trouble("scratch-left", "verdict", ", ".join(setup.scratch()))
    found = Disk()

    def clean() -> bool:
        objects = setup.objects()
        found.leftovers = spare(setup, objects, journal.uploads.values())
        found.total = sum(objects.values())
        found.spare = sum(objects.get(key, 0) for key in found.leftovers)
        return not found.leftovers

    if not settle.until(clean, BACK_SECONDS):
        some = ", ".join(found.leftovers[:12])
        journal.trouble("store-leftovers", "verdict", f"{len(found.leftovers)} objects, {found.spare:,} B: {some}")
    return found


def spare(setup: Setup, objects: Iterable[str], uploads: Iterable[Accepted]) -> list[str]:
    """The keys that no model needs: those of a finished one are needed, but what other attempts at it have made, and
    those of an upload that failed and is kept until its publisher retries or deletes it."""
    kept = {each.model for each in uploads if each.end and each.error and not each.gone}
    keys = set(objects)
    needed: set[str] = set()
    leftovers = set()
    for model in {key.split("/")[1] for key in keys if key.startswith("models/")}:
        for name in ("upload.json", "manifest.json"):
            if f"models/{model}/{name}" in keys:
                needed |= blobs(setup, f"models/{model}/{name}")
        manifest = f"models/{model}/manifest.json"
        if manifest in keys:
            made = f"models/{model}/{said(setup, manifest).get('folder', '')}/"
            leftovers |= {k for k in keys if k.startswith(f"models/{model}/made/") and not k.startswith(made)}
        elif model not in kept:
            leftovers |= {key for key in keys if key.startswith(f"models/{model}/")}
    for key in keys:
        top, _, rest = key.partition("/")
        partial = ".partial-" in key or "#" in rest.rsplit("/", 1)[-1]
        wanted = top == "models" and "/wanted/" in key and rest.split("/")[0] not in kept
        unused = top == "checkpoints" and rest not in needed
        if partial or wanted or unused or top not in ("models", "checkpoints", "names", "aliases", "refused"):
            leftovers.add(key)
    return sorted(leftovers)


def blobs(setup: Setup, key: str) -> set[str]:
    """The digests of the files that an upload's or a model's description refers to."""
    about = said(setup, key)
    return {str(about[role]) for role in ("checkpoint", "evaluation", "calibration") if about.get(role)}


def said(setup: Setup, key: str) -> Mapping[str, Any]:
    """The JSON at `key`; nothing where there is none, or it cannot be read."""
    try:
        found: Mapping[str, Any] = json.loads(setup.read(key))
    except (FileNotFoundError, ValueError):
        return {}
    return found
