from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from rightrank.models.emit import formats
from rightrank.models.emit.format import Output
from rightrank.models.emit.onnx.session import session
from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.plan.planner import Planner
from tests.models.nets import Shared, planner

pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")


def test_a_file_that_is_none_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(UnsupportedCheckpoint, match="onnxruntime does not open the file: .*Ask for another format"):
        session(tmp_path / "net.onnx")


def test_inputs_that_do_not_fit_are_an_error_of_the_run(tmp_path: Path) -> None:
    _, folder, _ = planner(Shared, tmp_path)
    file = io.BytesIO()
    formats.write(folder, Planner.open(folder, Output("onnx")).plan(1.0), file)
    (tmp_path / "net.onnx").write_bytes(file.getvalue())
    network = session(tmp_path / "net.onnx")
    found = network(torch.randn(3, 16))
    assert isinstance(found, torch.Tensor) and found.shape == (3, 12)
    with pytest.raises(RuntimeError, match="invalid dimensions for input: x"):
        network(torch.randn(3, 15))
