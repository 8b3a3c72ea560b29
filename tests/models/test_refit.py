from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import execute, layers, master, refit, statistics
from models.errors import DataError
from models.factor import decompose_in_metric
from models.program import Graph
from tests.models.nets import SHAPES, Small, make, read, source


def prepared(
    module: nn.Module, shape: tuple[int, ...], x: Tensor, folder: Path
) -> tuple[Graph, dict[str, Tensor], tuple[layers.Layer, ...], list[statistics.Moments]]:
    graph, tensors = read(module, shape, folder)
    decomposed = master.survey(graph, tensors).decomposed
    return graph, dict(tensors), decomposed, statistics.gather(graph, tensors, decomposed, x, master.silent)


def substituted(
    tensors: dict[str, Tensor], decomposed: tuple[layers.Layer, ...], found: dict[str, Tensor]
) -> dict[str, Tensor]:
    result = dict(tensors)
    for layer in decomposed:
        if f"down/{layer.name}" in found:
            weight = found[f"up/{layer.name}"].T @ found[f"down/{layer.name}"]
            result[layer.weight] = weight.reshape(layer.shape)
    result |= {name.removeprefix("corrected/"): row[0] for name, row in found.items() if name.startswith("corrected/")}
    return result


def test_a_refit_network_is_nearer_to_the_original_than_the_cut_on_images_it_has_not_seen(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = torch.randn(320, *SHAPES[Small]).cumsum(2)
    seen, unseen = data[:256], data[256:]
    graph, tensors, decomposed, moments = prepared(make(Small), SHAPES[Small], seen, tmp_path)
    ranks = [max(1, layer.break_even // 3) for layer in decomposed]
    cut: dict[str, Tensor] = {}
    for layer, rank, moment in zip(decomposed, ranks, moments, strict=True):
        factors = decompose_in_metric(tensors[layer.weight], moment)
        cut |= {f"down/{layer.name}": factors.down[:rank], f"up/{layer.name}": factors.up[:rank]}
    gradients = [moment.gradient for moment in moments]
    refitted = refit.refit(graph, tensors, decomposed, ranks, gradients, seen, master.silent)
    whole = execute.run(graph, tensors, [unseen])[0]
    errors = [
        float((execute.run(graph, substituted(tensors, decomposed, found), [unseen])[0] - whole).square().mean())
        for found in (cut, refitted)
    ]
    assert errors[1] < errors[0]


def test_dense_layers_are_left_alone(tmp_path: Path) -> None:
    x = torch.randn(64, *SHAPES[Small])
    graph, tensors, decomposed, moments = prepared(make(Small), SHAPES[Small], x, tmp_path)
    gradients = [moment.gradient for moment in moments]
    assert refit.refit(graph, tensors, decomposed, [0] * len(decomposed), gradients, x, master.silent) == {}


def test_factors_have_the_plans_ranks_and_the_weights_type(tmp_path: Path) -> None:
    x = torch.randn(64, *SHAPES[Small])
    graph, tensors, decomposed, moments = prepared(make(Small), SHAPES[Small], x, tmp_path)
    gradients = [moment.gradient for moment in moments]
    found = refit.refit(graph, tensors, decomposed, [2] * len(decomposed), gradients, x, master.silent)
    for layer in decomposed:
        down, up = found[f"down/{layer.name}"], found[f"up/{layer.name}"]
        assert (down.shape, up.shape, down.dtype) == ((2, layer.m), (2, layer.n), torch.float32)


def test_a_refit_without_data_is_refused(tmp_path: Path) -> None:
    folder = source(make(Small), SHAPES[Small], tmp_path / "source")
    with pytest.raises(DataError, match="calibration"):
        master.build(folder, tmp_path / "master", refit=True)


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(12, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.only(x)


def test_the_mean_of_the_outputs_is_kept(tmp_path: Path) -> None:
    x = torch.randn(300, 12) + 1
    graph, tensors, decomposed, moments = prepared(make(One), (12,), x, tmp_path)
    found = refit.refit(graph, tensors, decomposed, [2], [moments[0].gradient], x, master.silent)
    whole, less = (execute.run(graph, t, [x])[0] for t in (tensors, substituted(tensors, decomposed, found)))
    assert torch.allclose(whole.mean(0), less.mean(0), atol=1e-4)
