from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rightrank.service.run import demo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes, run as the service runs it: in a process of its own, from any folder."""
    out = tmp_path_factory.mktemp("demo") / "new"
    done = subprocess.run(
        [sys.executable, "-m", "rightrank.service.run.demo", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return out


def test_the_command_writes_the_three_files_of_an_upload(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "calibration.safetensors",
        "demo.pt2",
        "evaluation.safetensors",
    ]


def test_the_uploaded_network_is_right_on_97_of_100_held_out_images(folder: Path) -> None:
    evaluation = load_file(folder / "evaluation.safetensors")
    assert evaluation["inputs"].shape == (500, 1, 8, 8)
    # The whole set in one call: the batch size is free.
    logits = torch.export.load(folder / "demo.pt2").module()(evaluation["inputs"])
    assert (logits.argmax(1) == evaluation["targets"]).float().mean() >= 0.97


def test_no_held_out_image_is_among_the_calibration_images(folder: Path) -> None:
    held_out = load_file(folder / "evaluation.safetensors")["inputs"]
    calibration = load_file(folder / "calibration.safetensors")
    assert set(calibration) == {"inputs"}
    seen = {image.numpy().tobytes() for image in calibration["inputs"]}
    assert len(seen) == 1297
    assert not seen & {image.numpy().tobytes() for image in held_out}


def test_the_file_is_mostly_weights(folder: Path) -> None:
    parameters = sum(p.numel() for p in demo.network().parameters())
    assert 30_000 <= parameters <= 300_000
    assert f"{parameters:,} parameters" in str(demo.network.__doc__)


def test_every_digit_is_held_out_about_equally() -> None:
    _, _, _, held_out = demo.digits()
    counts = torch.bincount(held_out)
    assert len(counts) == 10
    assert counts.min() >= 47


def test_training_reports_every_epoch_and_ends_in_eval_mode() -> None:
    heard: list[tuple[str, int, int, str]] = []
    module = demo.network()
    images, targets = torch.rand(demo.BATCH, 1, 8, 8), torch.randint(10, (demo.BATCH,))
    demo.train(module, images, targets, lambda *said: heard.append(said))
    assert heard == [("training", epoch + 1, demo.EPOCHS, "epochs") for epoch in range(demo.EPOCHS)]
    assert not any(part.training for part in module.modules())
