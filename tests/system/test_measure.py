"""What the README says of a measure of one's own, as it is printed there: by the command, and by curl."""

import json
import os
import re
import subprocess
import sys

import httpx
import pytest
import torch
from safetensors.torch import load_file

from tests.system.processes import ENVIRONMENT, ROOT, curl


@pytest.fixture(scope="module")
def section():
    """The README's part of it."""
    return (ROOT / "README.md").read_text().partition("## Your own measure\n")[2].partition("\n## ")[0]


@pytest.fixture
def folder(section, net, tmp_path):
    """A publisher's folder: the data, and the script that is printed."""
    (script,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "errors.py").write_text(script)
    (tmp_path / "eval.safetensors").symlink_to(net / "evaluation.safetensors")
    # What the README calls `rightrank`, and a shell's python.
    (tmp_path / "bin").mkdir()
    for name, more in (("python", ""), ("rightrank", " -m rightrank.service")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{more} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def test_the_readmes_measure_runs_as_it_stands(service, section, folder, net):
    (lines,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    environment = {**ENVIRONMENT, "RIGHTRANK_URL": service.url, "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["sh", "-euc", lines], env=environment, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    data = load_file(net / "evaluation.safetensors")
    module = torch.jit.load(folder / "net.pt")
    with torch.inference_mode():
        wrong = (module(data["inputs"]).argmax(1) != data["targets"]).double().mean().item()
    with httpx.Client(base_url=service.url, timeout=60) as http:
        points = http.get("/models/net/curve").json()["points"]
        reported = {point["plan"]: {each["metric"]: each for each in point["reported"]} for point in points}
        head = http.head("/models/net", params={"budget": 0.3}).headers
        found = reported[head["RightRank-Plan"]]
        assert found["errors"]["value"] == wrong and found["errors"]["n"] == 500
        # The service's own measurement of the same file, by the same data, is beside it.
        assert float(head["RightRank-Accuracy"]) == pytest.approx(1 - wrong, abs=1e-12)
        assert f'errors="{wrong!r}";n=500;better=lower' in head["RightRank-Reported"]
        assert found["latency"]["value"] == 1.7
        asked = {"max_error": wrong, "metric": "errors"}
        assert http.head("/models/net", params=asked).headers["RightRank-Plan"] == head["RightRank-Plan"]
    assert json.loads(curl(f"{service.url}/models/net"))["reported"][0]["metric"] == "errors"
