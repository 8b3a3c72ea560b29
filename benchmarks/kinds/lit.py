"""A network and its data as Lightning has them."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.data import digits
from rightrank.service.run import demo


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network: nn.Module = demo.network()

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, 8, 8) → (n, 10)."""
        out: Tensor = self.network(images)
        return out

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.003)


class Digits(LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.data = digits()

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.data.images, self.data.labels), batch_size=64, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.data.test_images, self.data.test_labels), batch_size=100)
