"""Writes the files beside it: the same small network, by the torch that runs this. `python make.py` in its folder."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """A convolution with a norm, two layers with one weight, one that is a transposed view, a buffer that is not in
    the state dict, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.first = nn.Linear(12, 4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.again = nn.Linear(4, 4, bias=False)
        self.last = nn.Linear(4, 5)
        for parameter in self.parameters():
            values = torch.arange(parameter.numel(), dtype=torch.float32).sin()
            parameter.data = values.reshape(parameter.shape)
        self.again.weight = self.tied.weight
        self.last.weight = nn.Parameter(torch.arange(20.0).cos().reshape(4, 5).t())
        self.register_buffer("turned", torch.arange(4.0).flip(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(torch.relu(self.norm(self.conv(x))).flatten(1))
        x = self.again(torch.tanh(self.tied(x))) * torch.tensor([0.5, 1.0, 2.0, 4.0])
        out: Tensor = self.last(x + self.turned)
        return out


if __name__ == "__main__":
    batch = torch.export.Dim("batch")
    exported = torch.export.export(Net().eval(), (torch.zeros(2, 2, 4, 4),), dynamic_shapes=({0: batch},))
    for node in exported.graph.nodes:
        # Where on the writer's machine the source lies is nobody's business.
        node.meta.pop("stack_trace", None)
    torch.export.save(exported, f"torch-{'.'.join(torch.__version__.split('.')[:2])}.pt2")
