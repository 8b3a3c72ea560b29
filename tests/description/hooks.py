"""What schemathesis does besides, in its own environment: it never imports this project.

`DESCRIBED_FILES` is a folder with `model.pt2`, `evaluation.safetensors` and `calibration.safetensors`, and
`DESCRIBED_KEPT` names the model that has to stay, so that examples and links lead somewhere.
"""

import os
import time
from pathlib import Path
from urllib.parse import unquote

import requests
import schemathesis

FILES = Path(os.environ["DESCRIBED_FILES"])
KEPT = os.environ["DESCRIBED_KEPT"].split()
SUFFIXES = {"checkpoint": ".pt2", "evaluation": ".safetensors", "calibration": ".safetensors"}
REAL = {role: (FILES / ("model" if role == "checkpoint" else role)).with_suffix(suffix).read_bytes()
        for role, suffix in SUFFIXES.items()}  # fmt: skip
WAIT_SECONDS = 30
NOBODY = "m" + "0" * 24


@schemathesis.hook
def map_body(context, body):
    """Of what is generated for the files, half is replaced by files that can be read, and no work on them is long."""
    if not isinstance(body, dict) or not isinstance(body.get("checkpoint"), bytes) or len(body["checkpoint"]) % 2:
        return body
    changed = {name: REAL.get(name, value) for name, value in body.items() if name != "architecture"}
    options = changed.get("options")
    if isinstance(options, dict):
        changed["options"] = options = dict(options)
        if options.get("effort") in ("tune", "polish"):
            options["tune_steps"] = 2
        if isinstance(options.get("budgets"), list):
            options["budgets"] = options["budgets"][:2]
    return changed


@schemathesis.hook
def before_call(context, case, kwargs):
    """Nothing deletes the model that has to stay: not what is generated, nor what examples and links name."""
    # Values of paths are quoted by now.
    reference = unquote(str(case.path_parameters.get("reference")))
    if case.method.upper() == "DELETE" and reference.partition("@")[0] in KEPT:
        case.path_parameters["reference"] = NOBODY


@schemathesis.hook
def after_call(context, case, response):
    """A model that can be read is awaited, so that what the upload leads to is a model and not a 503."""
    if case.method.upper() != "POST" or case.path != "/models" or response.status_code != 202:
        return
    if not isinstance(case.body, dict) or case.body.get("checkpoint") != REAL["checkpoint"]:
        return
    address = f"{case.operation.base_url.rstrip('/')}/operations/{response.json()['operation']}"
    headers = {"Authorization": response.request.headers.get("Authorization", "")}
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and not requests.get(address, headers=headers, timeout=60).json().get("done"):
        time.sleep(0.05)


@schemathesis.check
def described_explicitly(ctx, response, case):
    """Every status is among those that the description names: `default` is for what it cannot know of."""
    if response.request.method.upper() != case.operation.method.upper():
        return
    named = case.operation.definition.raw["responses"]
    assert str(response.status_code) in named, f"{response.status_code} is not described"
