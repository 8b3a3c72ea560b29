"""AIMET's weight SVD of one of the benchmark's networks, in an environment of its own (`make build/aimet`).

    build/aimet/bin/python -m benchmarks.aimet NETWORK FOLDER SCHEME BUDGET

FOLDER has the network's `network.safetensors`, and `labelled.safetensors`: calibration `inputs` and their classes
`targets`, on which AIMET rates each layer at nine ratios and then chooses greedily ("weight", "spatial": its two
schemes). It counts the weights of all convolutions and linear layers; the target that it is given makes the whole
network, all parameters counted, as large as BUDGET. It leaves aimet-SCHEME-BUDGET.pt in FOLDER, traced, and a
.json with the `params` and `macs` that it really reached.

AIMET 2.42 wants a torchvision that imports; where that lacks an operator of its own, declaring the operator is enough.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import vision
from benchmarks.networks import NETWORKS
from rightrank.models.architectures.vit import SelfAttention

BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aimet", description="AIMET's weight SVD.")
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("scheme", choices=("weight", "spatial"))
    parser.add_argument("budget", type=float)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_file(given.folder / "labelled.safetensors")
    weights = load_file(given.folder / "network.safetensors")
    shape, classes = tuple(data["inputs"].shape[1:]), int(data["targets"].max()) + 1
    os.chdir(given.folder)  # AIMET writes its scores to ./data
    model = NETWORKS[given.network].build(shape, classes)
    model.load_state_dict(weights)
    smaller = compress(given.scheme, with_linear_layers(model.eval()), shape, rated_on(data), given.budget)
    smaller.eval()
    name = f"aimet-{given.scheme}-{given.budget:g}"
    with torch.no_grad():
        traced = torch.jit.trace(smaller, torch.zeros(2, *shape))  # type: ignore[no-untyped-call]
    traced.save(f"{name}.pt")
    Path(f"{name}.json").write_text(json.dumps({"params": count(smaller), "macs": macs(smaller, shape)}))


def compress(
    scheme: str, model: nn.Module, shape: tuple[int, ...], rate: Callable[[nn.Module, int, bool], float], budget: float
) -> nn.Module:
    """The network at a share of its parameters, or where AIMET cannot, as near as it comes."""
    vision.declare()
    from aimet_torch.common.defs import CompressionScheme, CostMetric, GreedySelectionParameters, RankSelectScheme
    from aimet_torch.compress import ModelCompressor
    from aimet_torch.defs import SpatialSvdParameters, WeightSvdParameters

    counted = sum(module.weight.numel() for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
    target = target_of(budget, count(model), counted)
    scores = Path("data/greedy_selection_eval_scores_dict.pkl")  # another target wants no other scores
    kept = scores.with_name(f"{scheme}.pkl")
    greedy = GreedySelectionParameters(target, saved_eval_scores_dict=str(kept) if kept.exists() else None)
    if scheme == "weight":
        kind = CompressionScheme.weight_svd
        automatic = WeightSvdParameters.AutoModeParams(RankSelectScheme.greedy, greedy)
        parameters = WeightSvdParameters(WeightSvdParameters.Mode.auto, automatic)
    else:
        kind = CompressionScheme.spatial_svd
        parameters = SpatialSvdParameters(SpatialSvdParameters.Mode.auto, SpatialSvdParameters.AutoModeParams(greedy))
    smaller: nn.Module
    smaller, _ = ModelCompressor.compress_model(model, rate, 1, (1, *shape), kind, CostMetric.memory, parameters)
    if not kept.exists():
        scores.rename(kept)
    return smaller


def target_of(budget: float, params: int, counted: int) -> float:
    """The share of the `counted` weights that makes all `params` a share `budget`; AIMET takes none below 0.01."""
    return min(max((budget * params - (params - counted)) / counted, 0.01), 0.99)


def rated_on(data: dict[str, Tensor]) -> Callable[[nn.Module, int, bool], float]:
    @torch.no_grad()
    def rate(model: nn.Module, iterations: int, use_cuda: bool) -> float:
        """The share of the images that are classified right."""
        found = [model(images).argmax(1) for images in torch.split(data["inputs"], BATCH)]
        return float((torch.cat(found) == data["targets"]).float().mean())

    return rate


class Attention(nn.Module):
    """`SelfAttention` with its first projection in a layer of its own, which AIMET can see."""

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        self.heads, dim = attention.heads, attention.in_proj_weight.shape[1]
        self.in_proj, self.out_proj = nn.Linear(dim, 3 * dim), attention.out_proj
        self.in_proj.weight, self.in_proj.bias = attention.in_proj_weight, attention.in_proj_bias

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        parts = self.in_proj(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


def with_linear_layers(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SelfAttention):
                setattr(parent, name, Attention(child))
    return model


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Of one sample, in convolutions and linear layers."""
    total = 0

    def add(module: Any, arguments: Any, output: Tensor) -> None:
        nonlocal total
        channels = output.shape[1] if isinstance(module, nn.Conv2d) else output.shape[-1]
        total += output.numel() // channels * module.weight.numel()

    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return total


if __name__ == "__main__":
    main()
