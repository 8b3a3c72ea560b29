"""Where things lie in the store, and what they are called there.

checkpoints/<sha256>                    what was uploaded
models/<id>/upload.json                 the intent of an upload: written first
models/<id>/wanted/<name>               what it is to be called once it is a model
models/<id>/tuning.safetensors          what a training under way has come to
models/<id>/made/<attempt>/…            what an attempt at its ingest has made: the master, and the data it needs
models/<id>/manifest.json               written last: names the attempt, and the digest of each of its files
models/<id>/failure.json                why an ingest was given up whose upload is kept
models/<id>/deleted.json                the model was deleted, and can be had back
models/<id>/measurements/<plan>.json    what is known of a cut
models/<id>/reported/<sha256>/<metric>/<number>.json
                                        what the publisher measured of the file with this SHA-256
models/<id>/improved/<plan>.safetensors what a plan has of its own
models/<id>/artifacts/<plan>.pt         a cut that is too large for the cache
refused/<id>.json                       why an upload was refused that is not kept, for a day
names/<name>/<version>.json             what a name stands for
aliases/<name>/<alias>/<move>.json      to which version an operator has moved an alias
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from rightrank.models.checkpoint.limits import FILES
from rightrank.models.emit.formats import format_of
from rightrank.models.master import entries
from rightrank.models.master.levels import LEVELS
from rightrank.models.plan.mixture import MIXTURE
from rightrank.models.plan.planner import Plan

MASTER = (entries.MASTER, entries.TEMPLATE, entries.PLANS)
PLANNER = (entries.TEMPLATE, entries.PLANS)
# Where ranks and steps can be mixed; of these the planner has the first.
MIXED = (MIXTURE, LEVELS)
EVALUATION, CALIBRATION = "evaluation.safetensors", "calibration.safetensors"
# What the original gives for the evaluation data, as far as a cut is compared with that.
REFERENCE = "reference.safetensors"
REFIT = entries.REFIT
# In an upload's intent, and repeated by the manifest that was made of it.
TOKEN = "token"
# What each attempt at an ingest has made lies in a folder of its own below this.
MADE = "made"
# Below a model, what its cuts leave.
CUTS = ("measurements", "improved", "artifacts")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
ID = re.compile(r"m[0-9a-f]{24}")


def model_id(upload: Mapping[str, Any]) -> str:
    """The identity of what was uploaded: the digests of its files, its architecture, its options and its card."""
    parts = {key: upload[key] for key in (*FILES, "architecture", "options")}
    parts |= {"card": upload["card"]} if "card" in upload else {}
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "m" + hashlib.sha256(canonical.encode()).hexdigest()[:24]


def where(manifest: Mapping[str, Any]) -> str:
    """Below which key a model's files lie: those of each attempt by themselves, in old stores right below the model."""
    return f"models/{manifest['id']}/{manifest.get('folder', '')}".rstrip("/")


def digests_of(upload: Mapping[str, Any]) -> list[str]:
    """The blobs that an upload (or a manifest, which repeats it) refers to."""
    return [upload[key] for key in FILES if upload.get(key)]


def digests_in(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of a model's files by name, as far as its manifest says: one from before it did, none."""
    return {name: file["sha256"] for name, file in manifest.get("files", {}).items()}


def checkpoint_key(sha256: str) -> str:
    return f"checkpoints/{sha256}"


def upload_key(id: str) -> str:
    return f"models/{id}/upload.json"


def manifest_key(id: str) -> str:
    return f"models/{id}/manifest.json"


def deleted_key(id: str) -> str:
    return f"models/{id}/deleted.json"


def failure_key(id: str) -> str:
    return f"models/{id}/failure.json"


def refusal_key(id: str) -> str:
    return f"refused/{id}.json"


def record_key(id: str, digest: str) -> str:
    return f"models/{id}/measurements/{digest}.json"


def reported_key(id: str, sha256: str = "", metric: str = "", number: int = 0) -> str:
    """A report's key; with less given, what those of a metric, a file or a model have in common."""
    parts = [f"models/{id}/reported", *filter(None, (sha256, metric)), *([f"{number}.json"] if number else [])]
    return "/".join(parts)


def improved_key(id: str, digest: str) -> str:
    return f"models/{id}/improved/{digest}.safetensors"


def tuning_key(id: str) -> str:
    return f"models/{id}/tuning.safetensors"


def artifact_key(id: str, plan: Plan) -> str:
    return f"models/{id}/artifacts/{plan.digest}{format_of(plan.output).suffix}"


def wanted_key(id: str, name: str) -> str:
    return f"models/{id}/wanted/{name}"


def name_key(name: str, version: int) -> str:
    return f"names/{name}/{version}.json"
