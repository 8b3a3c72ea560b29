"""A trained module becomes a file that can be published: sizes free, names kept, and none of the
example's data in it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rightrank.models import checkpoint
from rightrank.models.errors import ExportError
from rightrank.models.exporting import export


@dataclass
class Output:
    hidden: Tensor
    logits: Tensor
    loss: None = None


class Encoder(nn.Module):
    """As transformers call theirs: named arguments, an object with the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, scaled: bool = False) -> Output:
        hidden = self.embedding(input_ids)
        if attention_mask is not None:
            hidden = hidden * attention_mask.unsqueeze(-1)
        return Output(hidden, self.head(hidden.mean(1)) * (2.0 if scaled else 1.0))


class Fixed(nn.Module):
    """Works for three rows alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.arange(3.0).unsqueeze(1)


CONV = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
)


@pytest.mark.parametrize("rows", [1, 4])
def test_the_number_of_rows_is_free_and_the_module_stays_as_it_was(tmp_path: Path, rows: int) -> None:
    CONV.train()
    file = export(CONV, torch.randn(rows, 3, 8, 8), tmp_path / "net.pt2")
    assert all(module.training for module in CONV.modules())
    graph = checkpoint.read(file).graph
    assert graph.batch is None and graph.inputs[0].shape == (None, 3, 8, 8)
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(torch.export.load(file).module()(x), CONV.eval()(x))


def test_sizes_that_are_asked_for_are_free(tmp_path: Path) -> None:
    file = export(CONV, (torch.randn(1, 3, 8, 8),), tmp_path / "net.pt2", free={2: (4, 64), 3: (4, 64)})
    assert checkpoint.read(file).graph.inputs[0].shape == (None, 3, None, None)


def test_inputs_keep_their_names_and_an_object_gives_its_answers(tmp_path: Path) -> None:
    encoder, ids, mask = Encoder(), torch.randint(0, 50, (2, 6)), torch.ones(2, 6)
    example = {"input_ids": ids, "attention_mask": mask, "scaled": True}
    file = export(encoder, example, tmp_path / "net.pt2", free={1: (2, 16)})
    graph = checkpoint.read(file).graph
    assert [(spec.name, spec.shape) for spec in graph.inputs] == [
        ("input_ids", (None, None)),
        ("attention_mask", (None, None)),
    ]
    ids, mask = torch.randint(0, 50, (3, 9)), torch.ones(3, 9)
    found = torch.export.load(file).module()(input_ids=ids, attention_mask=mask, scaled=True)
    torch.testing.assert_close(found, encoder(ids, mask, True).logits)


@pytest.mark.parametrize("kind", [dict, tuple, list])
def test_of_several_outputs_tensors_are_kept_and_of_a_dict_the_answer(tmp_path: Path, kind: type) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            found = {"aux": x, "out": self.linear(x)}
            return found if kind is dict else kind(found.values())

    net, x = Net(), torch.randn(3, 4)
    found = torch.export.load(export(net, x, tmp_path / "net.pt2")).module()(x)
    expected = net(x)
    if kind is dict:
        torch.testing.assert_close(found, expected["out"])
    else:
        torch.testing.assert_close(list(found), list(expected))


def test_nothing_of_the_example_is_in_the_file(tmp_path: Path) -> None:
    example = torch.full((64, 1000), 0.123456)
    file = export(nn.Linear(1000, 2), example, tmp_path / "net.pt2")
    assert file.stat().st_size < example.nbytes / 8
    secret = example[:1, :8].numpy().tobytes()
    with zipfile.ZipFile(file) as archive:
        assert not any(secret in archive.read(name) for name in archive.namelist())


def test_rows_that_cannot_be_free_are_as_in_the_example(tmp_path: Path) -> None:
    assert checkpoint.read(export(Fixed(), torch.randn(3, 2), tmp_path / "net.pt2")).graph.batch == 3


def test_what_cannot_be_exported_is_said_and_leaves_no_file(tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    for example, words in (
        (torch.tensor(1.0), "first dimension"),
        ((), "has to have tensors"),
        ({"y": torch.randn(2, 4)}, "does not run on the example"),
        (torch.randn(2, 5), "does not run on the example"),
        (np.array(["a", "b"]), "an array of <U1, which is no tensor"),
        ({"input": np.array([None])}, "an array of object"),
    ):
        with pytest.raises(ExportError, match=words):
            export(nn.Linear(4, 2), example, file)
    with pytest.raises(ExportError, match="Dimension 1 cannot be free"):
        export(nn.Linear(4, 2), torch.randn(2, 4), file, free={1: (2, 8)})

    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> dict[str, int]:
            return {"n": 1}

    with pytest.raises(ExportError, match="no tensor"):
        export(Nothing(), torch.randn(2, 4), file)
    assert not list(tmp_path.iterdir())
