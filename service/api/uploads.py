"""Taking in an upload: what a form must hold, and in which order it reaches the store."""

from __future__ import annotations

import time
import uuid
from typing import Any

from rightrank.models import card
from rightrank.models.checkpoint.limits import FILES
from rightrank.models.emit.format import FIRST
from rightrank.models.emit.formats import FORMATS
from rightrank.models.emit.precision import CHOICES
from rightrank.models.measure.metrics import METRICS
from rightrank.models.plan.criteria import CRITERIA
from rightrank.models.plan.planner import COMMON
from rightrank.service.api.access import Access
from rightrank.service.api.common import admit_job
from rightrank.service.api.forms import Form, Upload
from rightrank.service.api.keys import Key
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import INGEST
from rightrank.service.jobs.operations import ingest_id
from rightrank.service.problems import Problem
from rightrank.service.registry.layout import (
    ID,
    NAME,
    TOKEN,
    checkpoint_key,
    failure_key,
    model_id,
    refusal_key,
    upload_key,
    wanted_key,
)
from rightrank.service.registry.upload import AHEAD, EFFORTS, NUMBERS, architecture_of, card_of, check_sizes, options_of

FIELDS = frozenset({"architecture", "card", "name", "options"})

LABELS = {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}
OF_OUTPUTS = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": "^(0|[1-9][0-9]{0,3})$"},
    "additionalProperties": LABELS,
}
FORM_SCHEMA = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["checkpoint"],
                "additionalProperties": False,
                "properties": {
                    "checkpoint": {
                        "type": "string",
                        "contentMediaType": "application/octet-stream",
                        "minLength": 1,
                        "description": "A .pt2 file, or .safetensors / a state dict with `architecture`.",
                    },
                    "evaluation": {
                        "type": "string",
                        "contentMediaType": "application/octet-stream",
                        "minLength": 1,
                        "description": "`inputs` and `targets`, .safetensors or .npz: what accuracy is measured on.",
                    },
                    "calibration": {
                        "type": "string",
                        "contentMediaType": "application/octet-stream",
                        "minLength": 1,
                        "description": "`inputs`, the same formats.",
                    },
                    "architecture": {
                        "type": "string",
                        "description": "A registered name, or JSON with its `name`.",
                        "examples": ["resnet18", '{"name": "resnet18", "arguments": {"num_classes": 10}}'],
                    },
                    "name": {
                        "type": "string",
                        "pattern": f"^({NAME.pattern})?$",
                        "not": {"pattern": f"^{ID.pattern}$"},
                        "description": "Publish under this; empty, or left out, under none.",
                        "examples": ["digits"],
                    },
                    # Objects of a form are sent as JSON.
                    "card": {
                        "type": "object",
                        "additionalProperties": False,
                        "description": f"As JSON, at most {card.LIMIT} bytes of it: what travels in the files, as "
                        "`card.json`, for those who run them.",
                        "properties": {
                            "description": {"type": "string", "minLength": 1},
                            "license": {
                                "type": "string",
                                "minLength": 1,
                                "description": "An SPDX expression, or text.",
                            },
                            "labels": {
                                "description": "The names of the classes, in their order: of the first output, or of "
                                "each by its number.",
                                "anyOf": [LABELS, OF_OUTPUTS],
                            },
                            "preprocessing": {"type": "object", "description": "What is done to make inputs."},
                        },
                        "examples": [
                            {
                                "license": "Apache-2.0",
                                "labels": ["cat", "dog"],
                                "preprocessing": {"size": [224, 224], "layout": "NCHW"},
                            }
                        ],
                    },
                    "options": {
                        "type": "object",
                        "additionalProperties": False,
                        "description": "As JSON. An effort other than `cut` needs `calibration`, `budgets` and "
                        "`formats` need `evaluation`, and a number of steps or seconds goes with effort `tune` or "
                        "`polish`.",
                        "properties": {
                            "criterion": {"enum": list(CRITERIA)},
                            "metric": {"enum": list(METRICS)},
                            "effort": {"enum": list(EFFORTS), "default": "cut"},
                            "precision": {
                                "enum": list(CHOICES),
                                "description": "What files' numbers are stored as where a request names nothing, and "
                                "what is measured right after the upload; by default as they are.",
                            },
                            **{name: {"type": "integer", "minimum": 1, "maximum": most} for name, most in NUMBERS},
                            "budgets": {
                                "type": "array",
                                "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                                "maxItems": AHEAD,
                                "default": list(COMMON),
                                "description": "Made and measured right after the upload, those that can be met.",
                            },
                            "formats": {
                                "type": "array",
                                "items": {"enum": [name for name in FORMATS if name != FIRST.format]},
                                "uniqueItems": True,
                                "description": "In which the same sizes are made and measured then, besides "
                                "TorchScript.",
                            },
                        },
                        "examples": [{"budgets": [0.5, 0.3]}],
                    },
                },
            },
            "encoding": {name: {"contentType": "application/json"} for name in ("card", "options")},
        }
    },
}


def accept(parts: Parts, form: Form, access: Access) -> dict[str, str]:
    """Puts an upload into the store and has it ingested; its id and operation. Raises `Problem`.

    The intent comes first, then the files: whatever is in the store is then spoken for, and an upload
    that breaks off in between is found out and taken back by its own ingest.
    """
    upload = describe(form)
    name = name_of(form)
    access.publishes(name)
    key = access.key
    id = model_id(upload)
    owner = key.name if key else ""
    intent = {**upload, "id": id, "uploaded": time.time(), "owner": owner, TOKEN: uuid.uuid4().hex}
    if not parts.catalogue.whole(id):
        parts.store.create_json(upload_key(id), intent)
        for file in form.files.values():
            store_once(parts, file)
    with parts.catalogue.changing(id) as lock:
        if parts.catalogue.whole(id):
            parts.catalogue.unhide(id)
            if name is not None:
                parts.catalogue.publish(name, id)
        else:
            begin(parts, intent, form, name, key)
        if not lock.hold():
            raise Problem("unavailable", "The upload took too long to be taken in.", headers={"Retry-After": "2"})
    return {"id": id, "operation": ingest_id(id)}


def begin(parts: Parts, intent: dict[str, Any], form: Form, name: str | None, key: Key | None) -> None:
    """Has an upload ingested, or takes it back where others have come in first since it began. Raises `Problem`."""
    id, store = intent["id"], parts.store
    with parts.cache.lock("admission"):
        running = parts.engine.get(ingest_id(id))
        anew = running is None or running.done
        if anew:
            try:
                admit_job(parts, INGEST, key)
            except Problem:
                parts.catalogue.discard(id, intent[TOKEN])  # one that was accepted before is another's
                raise
            # In place of one that was there before: no attempt at that one can take this one along.
            store.replace_json(upload_key(id), intent)
            store.delete(failure_key(id), refusal_key(id))
        store.create_json(upload_key(id), intent)
        # Once more: since then, somebody may have deleted another model with the same files.
        for file in form.files.values():
            store_once(parts, file)
        if name is not None:
            store.create(wanted_key(id, name), b"{}")
        parts.ingest(id, key.name if key else "")


def store_once(parts: Parts, file: Upload) -> None:
    """Stores a file by its digest. The lock keeps it from being found here and deleted as unused there."""
    key = checkpoint_key(file.sha256)
    with parts.cache.lock("checkpoints"):
        there = parts.store.exists(key)
    if not there:
        parts.store.create_file(key, file.path)


def describe(form: Form) -> dict[str, Any]:
    """What makes up a model's identity, and what it is called where it comes from. Raises `Problem`."""
    if "checkpoint" not in form.files:
        raise Problem("invalid-request", "The form has no file `checkpoint`.", "curl -F checkpoint=@model.pt2 …")
    check_sizes({role: file.size for role, file in form.files.items()})
    return {
        **{role: form.files[role].sha256 if role in form.files else None for role in FILES},
        "architecture": architecture_of(form.fields.get("architecture", "")),
        "options": options_of(form.fields.get("options", ""), form.files),
        **({"card": said} if (said := card_of(form.fields.get("card", ""))) else {}),
        "filename": form.files["checkpoint"].filename[:200],
        "size": form.files["checkpoint"].size,
    }


def name_of(form: Form) -> str | None:
    name = form.fields.get("name", "").strip()
    if not name:
        return None
    if not NAME.fullmatch(name) or ID.fullmatch(name):
        raise Problem(
            "invalid-request",
            f"{name[:100]!r} cannot be a name.",
            "A name has up to 64 small letters, digits, dots, dashes and underscores, and is no model id.",
        )
    return name
