"""One line publishes a module with its data, and what comes back is a model to fetch from."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import rightrank
from rightrank.models.errors import DataError, ExportError
from rightrank.service.client.http import Unreachable
from tests.service.conftest import Running

README = Path(__file__).parents[3] / "README.md"


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)) * gate)


def test_a_module_is_published_measured_and_had_at_any_size(service: Running, tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(64, 12)
    y = net(x).argmax(1)
    batches = [(x[:40], y[:40]), (x[40:], y[40:])]
    url = str(service.client.base_url)
    model = rightrank.push(net, x[:1], evaluation=batches, calibration=x.numpy(), name="net", url=url, budgets=[1, 0.7])
    assert model.describe()["names"] == ["net@1"] and model.describe()["baseline"]["value"] == 1.0
    facts = model.pull(tmp_path / "net.pt", budget=0.7, precision="int8")
    assert facts["precision"] == "int8" and int(facts["accuracy-samples"]) == 64
    torch.testing.assert_close(model.load()(x[:5]), net(x[:5]), rtol=0, atol=0)
    assert [point["method"] for point in model.curve()][-1] == "original"
    shown = model._repr_html_()
    assert "<p>net" in shown and shown.count("<tr>") == 1 + len(model.curve())


def test_the_readmes_line_publishes(service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It follows a reader's own: a trained `network`, `images` with their `labels`, and some `training` images."""
    found = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (block,) = [each for each in found if "rightrank.push" in each]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIGHTRANK_URL", str(service.client.base_url))
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), torch.rand(40, 8, 8)
    given = {"network": network, "images": images, "labels": network(images).argmax(1), "training": images.numpy()}
    Path("block.py").write_text(block)
    after = runpy.run_path("block.py", given)
    assert after["smaller"](images).shape == (40, 10)
    assert after["model"].describe()["names"] == ["net@1"] and Path("small.pt").stat().st_size > 0


def test_inputs_go_by_their_names(service: Running) -> None:
    net, x, gate = Two(), torch.randn(16, 6), torch.rand(16, 24)
    example = {"x": x[:2], "gate": gate[:2]}
    url = str(service.client.base_url)
    y = net(x, gate).argmax(1).numpy()
    for inputs in ({"x": x, "gate": gate}, (x, gate)):
        model = rightrank.push(net, example, evaluation=(inputs, y), url=url)
        assert model.reference == model.id and model.describe()["baseline"]["value"] == 1.0


class Reads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weights = attention_mask[..., None].float()
        return self.head((self.embedding(input_ids) * weights).sum(1) / weights.sum(1))


def test_loaders_of_dicts_and_of_several_lengths_are_taken_as_they_are(service: Running) -> None:
    net, generator = Reads(), torch.Generator().manual_seed(0)

    def batch(length: int) -> dict[str, Tensor]:
        ids = torch.randint(50, (8, length), generator=generator)
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        # A tokenizer's third array, which the network does not take.
        return {**found, "token_type_ids": torch.zeros_like(ids), "labels": net(**found).argmax(1)}

    # Without batches of its own a loader hands on what it has.
    loader: DataLoader[dict[str, Tensor]] = DataLoader([batch(5), batch(7), batch(5)], batch_size=None)
    example = {name: batch(6)[name][:1].numpy() for name in ("input_ids", "attention_mask")}
    url = str(service.client.base_url)
    model = rightrank.push(net, example, evaluation=loader, calibration=loader, free={1: (2, 9)}, url=url)
    assert model.describe()["baseline"] | {"value": 1.0, "n": 24} == model.describe()["baseline"]


def test_what_does_not_go_is_said_before_anything_is_sent() -> None:
    net, x, gate = Two(), torch.randn(4, 6), torch.rand(4, 24)
    with pytest.raises(DataError, match="without their names"):
        rightrank.push(net, (x, gate), calibration=(x, gate))
    with pytest.raises(DataError, match="no evaluation data"):
        rightrank.push(net, (x, gate), evaluation=[])
    nothing: DataLoader[Tensor] = DataLoader([], batch_size=None)
    with pytest.raises(DataError, match="no calibration data"):
        rightrank.push(net, (x, gate), calibration=nothing)
    with pytest.raises(DataError, match="is no array"):
        rightrank.push(net, (x, gate), calibration=np.array(["a"]))
    with pytest.raises(ExportError):
        rightrank.push(net, (x,), url="http://127.0.0.1:9")


def test_the_server_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGHTRANK_URL", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match="127.0.0.1:9"):
        rightrank.push(nn.Linear(2, 2), torch.randn(1, 2))
