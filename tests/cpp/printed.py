"""What docs/fetch.md prints for C++, compiled and run: apart from the others, for it takes a compiler and a minute."""

import os
import re
import subprocess
import sys

import torch

import rightrank
from tests.system import networks
from tests.system.processes import ROOT

SECTION = (ROOT / "docs" / "fetch.md").read_text().partition("## C++ with LibTorch\n")[2]


def lines():
    """What a shell compiles run.cpp by, and runs it."""
    (found,) = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
    return found.strip()


def shell(code, folder):
    """What became of these lines in `folder`, where `python` is this one."""
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    given = {**os.environ, "PATH": path}
    return subprocess.run(["sh", "-euc", code], cwd=folder, env=given, capture_output=True, text=True)


def test_a_file_runs_in_c_plus_plus(tmp_path):
    networks.digits(tmp_path)
    master = rightrank.build(rightrank.read(tmp_path / "net.pt2"), tmp_path / "master")
    (code,) = re.findall(r"```cpp\n(.*?)```", SECTION, re.DOTALL)
    (tmp_path / "run.cpp").write_text(code)
    *compiling, running = lines().splitlines()
    assert running == "./run net.pt 1 64"
    compiled = shell("\n".join(compiling), tmp_path)
    assert compiled.returncode == 0, compiled.stderr
    for budget, precision in ((1.0, "float32"), (0.5, "float32"), (0.5, "int8"), (0.2, "auto")):
        rightrank.write(master, rightrank.plan(master, budget=budget, precision=precision), tmp_path / "net.pt")
        done = shell(running.replace("1 64", "2 1 8 8"), tmp_path)
        assert done.returncode == 0, done.stderr
        found = [float(each) for each in re.findall(r"-?[0-9.]+(?:e-?[0-9]+)?(?= |$)", done.stdout, re.MULTILINE)]
        with torch.inference_mode():
            wanted = torch.jit.load(tmp_path / "net.pt")(torch.zeros(2, 1, 8, 8))
        assert all(any(abs(each - value) < 1e-3 for value in found) for each in wanted.flatten().tolist()), done.stdout
