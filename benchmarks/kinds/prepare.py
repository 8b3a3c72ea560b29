"""For each script of docs/publish.md the trained network and the data that it finds in its folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.data import Data, digits
from benchmarks.kinds import mine
from benchmarks.tasks import texts
from benchmarks.tasks.kinds import canvases, tables

# Calibration inputs of each.
SOME = 300
MINE = "from benchmarks.kinds.mine import *\n"

Loss = Callable[[nn.Module, Tensor], Tensor]


def train(network: nn.Module, rows: int, loss: Loss, steps: int, rate: float = 3e-3) -> None:
    """AdamW with one rise and fall of the learning rate, on batches of 64 rows by their numbers."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network, torch.randint(rows, (64,), generator=generator)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval()


def classes(images: Tensor, labels: Tensor, key: str | None = None) -> Loss:
    """Cross entropy of a network of classes; of one whose output is an object, of its logits."""

    def loss(network: nn.Module, rows: Tensor) -> Tensor:
        out = network(images[rows]) if key is None else network(**{key: images[rows]}).logits
        return functional.cross_entropy(out, labels[rows])

    return loss


def write_digits(folder: Path, data: Data) -> None:
    np.savez(
        folder / "digits.npz", images=data.test_images, labels=data.test_labels, training=data.images[:SOME].numpy()
    )


def module(folder: Path, share: float) -> None:
    data, network = digits(), mine.Network()
    train(network, len(data.images), classes(data.images, data.labels), steps(160, share))
    torch.save(network.state_dict(), folder / "network.pt")
    write_digits(folder, data)


def timm(folder: Path, share: float) -> None:
    import timm as library

    data = digits().resized(32)
    network = library.create_model("resnet10t", num_classes=10, in_chans=1)
    train(network, len(data.images), classes(data.images, data.labels), steps(100, share))
    torch.save(network.state_dict(), folder / "timm.pt")
    write_digits(folder, data)


def lightning(folder: Path, share: float) -> None:
    from lightning import Trainer

    from benchmarks.kinds.lit import Classifier, Digits

    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=steps(6, share), accelerator="cpu", enable_checkpointing=True, **quiet)
    trainer.fit(Classifier(), Digits())
    trainer.save_checkpoint(folder / "lightning.ckpt")
    (folder / "mine.py").write_text("from benchmarks.kinds.lit import *\n")


def bert(folder: Path, share: float) -> None:
    """Which of two libraries a sentence of documentation is from."""
    from transformers import BertConfig, BertForSequenceClassification

    libraries = ("python", "torch")
    found = {test: [texts.sentences(each, 200 if test else 1500, test) for each in libraries] for test in (False, True)}
    known = texts.vocabulary([text for each in found[False] for text in each], 1000)

    def batch(test: bool, library: int, part: slice) -> dict[str, Tensor]:
        rows = [texts.numbered(text, known) for text in found[test][library][part]]
        ids = np.stack([np.pad(row[: texts.LONGEST], (0, max(0, texts.LONGEST - len(row)))) for row in rows])
        lengths = np.array([len(row) for row in rows])
        mask = (np.arange(texts.LONGEST) < lengths[:, None]).astype(np.int64)
        labels = torch.full((len(rows),), library)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), "labels": labels}

    def both(test: bool, part: slice) -> dict[str, Tensor]:
        each = [batch(test, library, part) for library in range(len(libraries))]
        return {key: torch.cat([one[key] for one in each]) for key in each[0]}

    training, evaluation = both(False, slice(None)), both(True, slice(None))
    config = BertConfig(
        vocab_size=1000,
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=384,
        max_position_embeddings=64,
        num_labels=len(libraries),
    )
    network = BertForSequenceClassification(config)

    def loss(network: nn.Module, rows: Tensor) -> Tensor:
        found: Tensor = network(**{key: each[rows] for key, each in training.items()}).loss
        return found

    train(network, len(training["labels"]), loss, steps(300, share), rate=1e-3)
    network.save_pretrained(folder / "bert")
    some = torch.randperm(len(training["labels"]), generator=torch.Generator().manual_seed(0))[:SOME]
    calibration = {key: each[some] for key, each in training.items() if key != "labels"}
    inputs = {key: each for key, each in evaluation.items() if key != "labels"}
    torch.save(((inputs, evaluation["labels"]), calibration), folder / "sentences.pt")


def vit(folder: Path, share: float) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    data = digits()
    config = ViTConfig(
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
    )
    network = ViTForImageClassification(config)
    train(network, len(data.images), classes(data.images, data.labels, "pixel_values"), steps(400, share))
    network.save_pretrained(folder / "vit")
    write_digits(folder, data)


def unet(folder: Path, share: float) -> None:
    images, masks, _ = canvases(steps(1500, share), 24, 24, test=False, seed=0)
    test_images, test_masks, _ = canvases(100, 24, 24, test=True, seed=1)
    network = mine.UNet()
    train(network, len(images), classes(images, masks), steps(500, share), rate=5e-3)
    torch.save(network.state_dict(), folder / "unet.pt")
    np.savez(folder / "canvases.npz", images=test_images, masks=test_masks, training=images[:SOME].numpy())


def lstm(folder: Path, share: float) -> None:
    data, network = digits(), mine.Recurrent()
    train(network, len(data.images), classes(data.images[:, 0], data.labels), steps(400, share), rate=5e-3)
    torch.save(network.state_dict(), folder / "lstm.pt")
    np.savez(
        folder / "rows.npz",
        series=data.test_images[:, 0],
        labels=data.test_labels,
        training=data.images[:SOME, 0].numpy(),
    )


def audio(folder: Path, share: float) -> None:
    (heard, kinds), (test_waves, test_kinds) = mine.waves(1500, seed=0), mine.waves(500, seed=1)
    network = mine.Listener()
    train(network, len(heard), classes(heard, kinds), steps(300, share))
    torch.save(network.state_dict(), folder / "listener.pt")
    np.savez(folder / "tones.npz", waves=test_waves, labels=test_kinds, training=heard[:SOME].numpy())


def table(folder: Path, share: float) -> None:
    features, benign, test_features, test_benign = tables("breast_cancer")
    rows, wanted = torch.from_numpy(features), torch.from_numpy(1 - benign).float()

    def loss(network: nn.Module, chosen: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(network(rows[chosen])[:, 0], wanted[chosen])

    network = mine.Perceptron()
    train(network, len(rows), loss, steps(300, share), rate=2e-3)
    torch.save(network.state_dict(), folder / "table.pt")
    malignant = (test_benign == 0).astype(np.int64)
    np.savez(folder / "table.npz", features=test_features, malignant=malignant, training=features[:SOME])


def steps(whole: int, share: float) -> int:
    return max(2, math.ceil(whole * share))


# By the headings of docs/publish.md.
PREPARE: Mapping[str, Callable[[Path, float], None]] = {
    "A module of your own": module,
    "timm": timm,
    "Lightning": lightning,
    "transformers, text with a mask": bert,
    "transformers, images": vit,
    "Segmentation: a U-Net": unet,
    "Sequences: an LSTM": lstm,
    "Audio: convolutions over samples": audio,
    "Tables: one logit": table,
}
# Those that need nothing but what this project has.
OWN = tuple(name for name, prepare in PREPARE.items() if prepare in (module, unet, lstm, audio, table))
