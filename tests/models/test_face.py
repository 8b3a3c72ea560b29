from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

from tests.models.nets import SHAPES, Small, make

README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_notebook_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its lines follow a reader's own: a trained `model`, and `images` and `labels` of it."""
    (block,) = [
        each for each in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "rightrank" in each
    ]
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    monkeypatch.chdir(tmp_path)
    model, images = make(Small), torch.randn(100, *SHAPES[Small])
    with torch.no_grad():
        labels = model(images).argmax(1)
    Path("block.py").write_text(block)
    runpy.run_path("block.py", {"model": model, "images": images, "labels": labels})
    assert "top1" in capsys.readouterr().out
    assert torch.jit.load("small.pt")(images).shape == (100, 10)  # type: ignore[no-untyped-call]
    assert Path("small.pt").stat().st_size > 0
