"""What is installed: one package by one name, and a client that is small."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.system.processes import ENVIRONMENT, ROOT

MIB = 1 << 20
# What a device is asked to have room for.
LARGEST = 25 * MIB


def run(*command, cwd, check=True, **environment):
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**ENVIRONMENT, **environment}, capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def size(folder):
    """Bytes of all files below a folder."""
    return sum(os.lstat(os.path.join(parent, name)).st_size for parent, _, names in os.walk(folder) for name in names)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """An environment in which nothing but the client is installed, and what that added to it, in bytes."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("rightrank", "models", "service"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=unwanted)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    before = size(folder / "venv")
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", source, cwd=folder)
    return python, size(folder / "venv") - before


def test_the_client_is_small_and_imports_without_torch(client, tmp_path):
    python, added = client
    assert added < LARGEST, f"{added / MIB:.1f} MiB"
    run(python, "-c", "import rightrank; rightrank.Client", cwd=tmp_path)
    for name in ("torch", "numpy", "fastapi"):
        assert run(python, "-c", f"import {name}", cwd=tmp_path, check=False).returncode != 0


def test_what_browsers_are_sent_is_in_the_package_with_its_licences(client, tmp_path):
    python, _ = client
    code = "import pathlib, rightrank; print(pathlib.Path(rightrank.__file__).parent / 'service' / 'api')"
    installed = run(python, "-c", code, cwd=tmp_path).stdout.strip()
    for folder in ("page", "swagger"):
        here = ROOT / "service" / "api" / folder
        names = {path.relative_to(here) for path in here.rglob("*") if path.is_file()}
        there = Path(installed, folder)
        assert {path.relative_to(there) for path in there.rglob("*") if path.is_file()} == names
    assert Path(installed, "page", "uplot", "LICENSE").exists() and Path(installed, "swagger", "LICENSE").exists()


@pytest.mark.parametrize("name", ["models", "service"])
def test_nobodys_own_package_is_shadowed(client, name, tmp_path):
    python, _ = client
    assert f"No module named '{name}'" in run(python, "-c", f"import {name}", cwd=tmp_path, check=False).stderr
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("MINE = 1")
    run(python, "-c", f"import rightrank; rightrank.Client; import {name}; assert {name}.MINE", cwd=tmp_path)


def test_the_installed_client_pulls_a_file(client, service, tmp_path):
    python, _ = client
    command = python.with_name("rightrank")
    run(command, "pull", "net", "--budget", "0.3", "-o", "net.pt", "--url", service.url, cwd=tmp_path)
    whole = service.client._http.get("/models/net", params={"budget": 0.3}).content
    assert hashlib.sha256((tmp_path / "net.pt").read_bytes()).digest() == hashlib.sha256(whole).digest()


def test_what_a_client_does_without_is_asked_for_in_words(client, tmp_path):
    python, _ = client
    served = run(python.with_name("rightrank"), "serve", cwd=tmp_path, check=False)
    assert served.returncode == 1 and "pip install 'rightrank[server]'" in served.stderr
    (tmp_path / "net.pt2").touch()
    for command in ("check", "cut"):
        local = run(python.with_name("rightrank"), command, "net.pt2", cwd=tmp_path, check=False)
        assert local.returncode == 1 and "pip install 'rightrank[models]'" in local.stderr
    read = run(python, "-c", "import rightrank; rightrank.read", cwd=tmp_path, check=False)
    assert "pip install 'rightrank[models]'" in read.stderr


def test_the_package_is_one_copy_wherever_it_is_imported_from():
    code = "import sys, rightrank.models.plan.planner; print({name.split('.')[0] for name in sys.modules})"
    found = run(sys.executable, "-c", code, cwd=ROOT).stdout
    assert "'rightrank'" in found and "'models'" not in found and "'service'" not in found
