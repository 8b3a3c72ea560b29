from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rightrank.models.confinement import layers
from rightrank.models.confinement.reach import ROOT
from tests.hostile import acts


def in_process(code: str) -> str:
    """What a Python process prints."""
    script = f"from rightrank.models.confinement import layers\n{code}"
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_what_is_available_is_what_a_process_that_puts_it_on_finds_to_hold() -> None:
    found = json.loads(in_process("import json; print(json.dumps(dict(layers.apply([], [], 9, 1 << 28))))"))
    assert dict(layers.available()) == found == acts.there()
    assert list(found) == list(layers.LAYERS)


def test_this_process_has_given_nothing_up_by_asking() -> None:
    layers.available()
    assert (ROOT / "rightrank" / "__init__.py").read_text()
    assert subprocess.run([sys.executable, "-c", ""], check=False).returncode == 0


def test_asking_loads_no_torch() -> None:
    assert in_process("import sys; layers.available(); print('torch' in sys.modules)") == "False\n"


def test_where_it_cannot_be_found_out_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers.sys, "executable", "/bin/false")
    assert not any(layers.available.__wrapped__().values())


@pytest.mark.parametrize(
    ("patch", "lacking"),
    [
        ("layers.kernel.platform.system = lambda: 'Darwin'", {"network", "capabilities", "landlock", "seccomp"}),
        ("layers.platform.machine = lambda: 'riscv64'", {"seccomp"}),
        (
            "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
            {"network", "capabilities", "landlock"},
        ),
    ],
    ids=["another system", "another processor", "a second thread"],
)
def test_what_cannot_be_put_on_is_said_not_to_hold(patch: str, lacking: set[str]) -> None:
    said = f"{patch}\nheld = layers.apply([], [], 9, 1 << 28)\nprint(*(name for name in held if not held[name]))"
    assert {*in_process(said).split()} == lacking | {name for name, there in layers.available().items() if not there}


def test_missing_are_the_required_ones_that_do_not_hold() -> None:
    held = dict.fromkeys(layers.LAYERS, True)
    assert layers.missing(held) == layers.missing({**held, "network": False}) == []
    assert layers.missing({**held, "seccomp": False, "landlock": False}) == ["landlock", "seccomp"]
    assert layers.missing({}) == sorted(layers.REQUIRED)
