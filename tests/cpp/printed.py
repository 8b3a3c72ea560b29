"""What docs/fetch.md prints for C++, compiled and run: apart from the others, for it takes a compiler and a minute."""

import os
import re
import subprocess
import sys

import torch

import rightrank
from tests.system import networks
from tests.system.processes import ROOT


def test_a_file_runs_in_c_plus_plus(tmp_path):
    networks.digits(tmp_path)
    master = rightrank.build(rightrank.read(tmp_path / "net.pt2"), tmp_path / "master")
    section = (ROOT / "docs" / "fetch.md").read_text().partition("## C++ with LibTorch\n")[2]
    (code,) = re.findall(r"```cpp\n(.*?)```", section, re.DOTALL)
    (tmp_path / "run.cpp").write_text(code)
    (lines,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    *compiling, running = lines.strip().splitlines()
    assert running == "./run net.pt 1 64"
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"

    def shell(code):
        given = {**os.environ, "PATH": path}
        return subprocess.run(["sh", "-euc", code], cwd=tmp_path, env=given, capture_output=True, text=True)

    compiled = shell("\n".join(compiling))
    assert compiled.returncode == 0, compiled.stderr
    for budget, precision in ((1.0, "float32"), (0.5, "float32"), (0.5, "int8"), (0.2, "auto")):
        rightrank.write(master, rightrank.plan(master, budget=budget, precision=precision), tmp_path / "net.pt")
        done = shell(running.replace("1 64", "2 1 8 8"))
        assert done.returncode == 0, done.stderr
        found = [float(each) for each in re.findall(r"-?[0-9.]+(?:e-?[0-9]+)?(?= |$)", done.stdout, re.MULTILINE)]
        with torch.inference_mode():
            wanted = torch.jit.load(tmp_path / "net.pt")(torch.zeros(2, 1, 8, 8))
        assert all(any(abs(each - value) < 1e-3 for value in found) for each in wanted.flatten().tolist()), done.stdout
