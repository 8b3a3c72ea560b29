"""The eight tasks: what data there are of each, its network, and how that learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.tasks import evaluation, networks, texts

Array: TypeAlias = NDArray[Any]
# The loss on a batch that is drawn with the generator.
Loss: TypeAlias = Callable[[nn.Module, torch.Generator], Tensor]
LONGEST = 256


@dataclass(frozen=True)
class Scale:
    """How much is done: the networks' width, the share of the training, of the training data, and how many samples
    there are for evaluation and for calibration."""

    width: int = 64
    training: float = 1.0
    data: float = 1.0
    evaluation: int = 1000
    calibration: int = 512


FULL = Scale()
QUICK = Scale(width=16, training=0.02, data=0.05, evaluation=60, calibration=64)


@dataclass(frozen=True)
class Made:
    """A network and what it is trained and published with. `free`: which dimensions of which of the `example` inputs
    have any size; `write`: puts evaluation data into the folder that one is in; `calibration`: inputs by name."""

    model: nn.Module
    example: tuple[Tensor, ...]
    free: tuple[Mapping[int, Any], ...]
    loss: Loss
    steps: int
    rate: float
    write: Callable[[], None]
    calibration: Mapping[str, Array]
    decay: float = 0.01


@dataclass(frozen=True)
class Task:
    """`inputs`: the names of the network's inputs."""

    title: str
    metrics: tuple[str, ...]
    inputs: tuple[str, ...]
    make: Callable[[Scale], Made]


def train(made: Made, share: float) -> None:
    """AdamW with one rise and fall of the learning rate."""
    steps = max(2, int(made.steps * share))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(made.model.parameters(), lr=made.rate, weight_decay=made.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=made.rate, total_steps=steps)
    made.model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        made.loss(made.model, generator).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    made.model.eval()


def free(name: str, least: int = 1, most: int | None = None) -> Any:
    return torch.export.Dim(name, min=least, max=most)


def drawn(count: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(count, (size,), generator=generator)


def text_classifier(scale: Scale) -> Made:
    """Which of six libraries a sentence of documentation is from."""
    per_class, words = int(5000 * scale.data), 1000
    train_texts, train_classes = _sentences(per_class, test=False)
    known = texts.vocabulary(train_texts, words)
    ids, mask = _padded([texts.numbered(text, known) for text in train_texts], texts.LONGEST)
    wanted = torch.tensor(train_classes)
    test_texts, test_classes = _sentences(max(scale.evaluation // len(texts.LIBRARIES), 8), test=True)
    test_ids = [texts.numbered(text, known) for text in test_texts]

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        rows = drawn(len(ids), 64, generator)
        longest = int(mask[rows].sum(1).max())
        return functional.cross_entropy(model(ids[rows, :longest], mask[rows, :longest]), wanted[rows])

    def write() -> None:
        groups = []
        for shortest, longest in ((0, 8), (9, 16), (17, 24), (25, texts.LONGEST)):
            rows = [row for row, each in enumerate(test_ids) if shortest <= len(each) <= longest]
            if rows:
                padded = _padded([test_ids[row] for row in rows], longest)
                groups.append((padded[0].numpy(), padded[1].numpy(), np.array([test_classes[row] for row in rows])))
        evaluation.texts(groups)

    length = free("length", 2, LONGEST)
    some = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))[: scale.calibration]
    return Made(
        networks.TextClassifier(words, LONGEST, len(texts.LIBRARIES), 2 * scale.width),
        (ids[:2, :7].clone(), mask[:2, :7].clone()),
        ({0: free("batch"), 1: length},) * 2,
        loss,
        steps=700,
        rate=2e-3,
        write=write,
        calibration={"input_ids": ids[some].numpy(), "attention_mask": mask[some].numpy()},
    )


def _sentences(per_class: int, test: bool) -> tuple[list[list[str]], list[int]]:
    found = [texts.sentences(library, per_class, test) for library in texts.LIBRARIES]
    return [text for each in found for text in each], [k for k, each in enumerate(found) for _ in each]


def _padded(rows: Sequence[Array], length: int) -> tuple[Tensor, Tensor]:
    """Numbers (n, length) and the mask of those that are there."""
    ids = np.stack([np.pad(row, (0, length - len(row)), constant_values=texts.PADDING) for row in rows])
    mask = np.arange(length) < np.array([len(row) for row in rows])[:, None]
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def tagger(scale: Scale) -> Made:
    """What each character of a line of Python source is part of."""
    lines, tags = texts.tagged(int(10_000 * scale.data), test=False)
    ids, mask = _padded(lines, 64)
    wanted = _padded(tags, 64)[0].masked_fill(mask == 0, -100)
    test_lines, test_tags = texts.tagged(scale.evaluation, test=True)
    test_ids, lengths = _padded(test_lines, 64)[0].numpy(), np.array([len(line) for line in test_lines])

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        rows = drawn(len(ids), 64, generator)
        return functional.cross_entropy(model(ids[rows]).flatten(0, 1), wanted[rows].flatten(), ignore_index=-100)

    return Made(
        networks.Tagger(texts.CHARACTERS, texts.OPERATOR + 1, 2 * scale.width),
        (ids[:2, :9].clone(),),
        ({0: free("batch"), 1: free("length", 2, 4096)},),
        loss,
        steps=500,
        rate=3e-3,
        write=lambda: evaluation.tags(test_ids, _padded(test_tags, 64)[0].numpy(), lengths),
        calibration={"input_ids": ids[: scale.calibration].numpy()},
    )


def unet(scale: Scale) -> Made:
    """Which digit each pixel of a noisy canvas belongs to."""
    images, masks, _ = canvases(int(4000 * scale.data), 24, 24, test=False, seed=0)
    half = scale.evaluation // 2
    square, square_masks, _ = canvases(half // 2, 24, 24, test=True, seed=1)
    wide, wide_masks, _ = canvases(half // 2, 32, 48, test=True, seed=2)

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        rows = drawn(len(images), 32, generator)
        return functional.cross_entropy(model(images[rows]), masks[rows])

    return Made(
        networks.UNet(11, scale.width // 2),
        (torch.randn(2, 1, 24, 32),),
        ({0: free("batch"), 2: 4 * free("rows", 2, 64), 3: 4 * free("columns", 2, 64)},),
        loss,
        steps=900,
        rate=5e-3,
        write=lambda: evaluation.masks(
            square.numpy(), square_masks.to(torch.uint8).numpy(), wide.numpy(), wide_masks.to(torch.uint8).numpy()
        ),
        calibration={"images": images[: scale.calibration].numpy()},
    )


def multi_label(scale: Scale) -> Made:
    """Which digits are on a noisy canvas."""
    images, _, present = canvases(int(6000 * scale.data), 24, 24, test=False, seed=0)
    test_images, _, test_present = canvases(scale.evaluation, 24, 24, test=True, seed=1)

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        rows = drawn(len(images), 64, generator)
        return functional.binary_cross_entropy_with_logits(model(images[rows]), present[rows].float())

    return Made(
        networks.MultiLabel(10, scale.width // 2),
        (torch.randn(2, 1, 24, 24),),
        ({0: free("batch")},),
        loss,
        steps=400,
        rate=5e-3,
        write=lambda: evaluation.labels(test_images, test_present),
        calibration={"inputs": images[: scale.calibration].numpy()},
    )


def canvases(count: int, height: int, width: int, test: bool, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy images (n, 1, h, w) with up to four of scikit-learn's digits or as many as there is room for, which of them
    each pixel belongs to (10: none) and which are there (n, 10)."""
    digits, classes = digit_images(test)
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(count, 1, height, width, generator=generator)
    masks = torch.full((count, height, width), 10)
    present = torch.zeros(count, 10, dtype=torch.int64)
    rows, columns = height // 8, width // 8
    for k in range(count):
        amount = int(torch.randint(1, rows * columns // 2 + 1, (1,), generator=generator))
        # Each in a cell of its own, moved by a little where it does not leave the canvas.
        for cell in torch.randperm(rows * columns, generator=generator)[:amount].tolist():
            chosen = int(drawn(len(digits), 1, generator))
            y, x = 8 * (cell // columns), 8 * (cell % columns)
            images[k, 0, y : y + 8, x : x + 8] += digits[chosen, 0]
            masks[k, y : y + 8, x : x + 8][digits[chosen, 0] > 0.25] = classes[chosen]
            present[k, classes[chosen]] = 1
    shift = (4, 4) if height == width else (0, 0)
    return images.roll(shift, (2, 3)), masks.roll(shift, (1, 2)), present


def digit_images(test: bool) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits (n, 1, 8, 8) in 0 … 1, and which they are; 500 are for testing."""
    from benchmarks.data import digits

    data = digits()
    return (data.test_images, data.test_labels) if test else (data.images, data.labels)


def tables(name: str) -> tuple[Array, Array, Array, Array]:
    """One of scikit-learn's tables, scaled by what is trained on: features and targets to train on and, a third, to
    test."""
    from sklearn import datasets

    features, targets = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(targets))
    features, targets = features[order], targets[order].astype(float)
    rest = features[len(order) // 3 :]
    features = ((features - rest.mean(0)) / rest.std(0)).astype(np.float32)
    test = slice(0, len(order) // 3)
    train = slice(len(order) // 3, None)
    return features[train], targets[train], features[test], targets[test]


def one_logit(scale: Scale) -> Made:
    """Whether a tumour is malignant."""
    features, benign, test_features, test_benign = tables("breast_cancer")
    rows, wanted = torch.from_numpy(features), torch.from_numpy(1 - benign).float()

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = drawn(len(rows), 64, generator)
        return functional.binary_cross_entropy_with_logits(model(rows[chosen])[:, 0], wanted[chosen])

    return Made(
        networks.perceptron(30, 4 * scale.width, 1, dropped=0.3),
        (rows[:2].clone(),),
        ({0: free("batch")},),
        loss,
        steps=400,
        rate=2e-3,
        write=lambda: evaluation.answers(test_features, test_benign == 0),
        calibration={"inputs": features},
        decay=0.1,
    )


def regression(scale: Scale) -> Made:
    """How far diabetes has got a year later."""
    features, later, test_features, test_later = tables("diabetes")
    rows, wanted = torch.from_numpy(features), torch.from_numpy(later).float()
    middle, spread = wanted.mean(), wanted.std()

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = drawn(len(rows), 64, generator)
        return functional.mse_loss((model(rows[chosen])[:, 0] - middle) / spread, (wanted[chosen] - middle) / spread)

    model = networks.perceptron(10, 4 * scale.width, 1, dropped=0.3)
    with torch.no_grad():
        last = model[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(spread)
        last.bias.fill_(middle)
    return Made(
        model,
        (rows[:2].clone(),),
        ({0: free("batch")},),
        loss,
        steps=400,
        rate=2e-3,
        write=lambda: evaluation.numbers(test_features, test_later),
        calibration={"inputs": features},
        decay=0.1,
    )


def embedding(scale: Scale) -> Made:
    """Digits as vectors, near to each other where they are the same."""
    images, classes = digit_images(test=False)
    test_images, _ = digit_images(test=True)

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        """Triplets: nearer to another image of the same digit than to one of any other, by a margin."""
        rows = drawn(len(images), 128, generator)
        vectors = functional.normalize(model(images[rows]), dim=1)
        apart = (vectors[:, None] - vectors[None]).square().sum(2)
        same = classes[rows][:, None] == classes[rows]
        farthest = apart.masked_fill(~same, -1).amax(1)
        return functional.softplus(10 * (farthest - apart.masked_fill(same, 9).amin(1) + 0.3)).mean() / 10

    return Made(
        nn.Sequential(nn.Flatten(), networks.perceptron(64, 4 * scale.width, 64)),
        (images[:2].clone(),),
        ({0: free("batch")},),
        loss,
        steps=400,
        rate=2e-3,
        write=lambda: evaluation.embeddings(test_images[: scale.evaluation].numpy()),
        calibration={"inputs": images[: scale.calibration].numpy()},
    )


def decoder(scale: Scale) -> Made:
    """Which character of Python source comes next."""
    ids = torch.from_numpy(texts.windows(int(20_000 * scale.data), 65, test=False))
    test_ids = texts.windows(scale.evaluation // 2, 65, test=True)

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        rows = ids[drawn(len(ids), 32, generator)]
        return functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())

    return Made(
        networks.Decoder(texts.CHARACTERS, LONGEST, 2 * scale.width),
        (ids[:2, :9].clone(),),
        ({0: free("batch"), 1: free("length", 2, LONGEST)},),
        loss,
        steps=700,
        rate=3e-3,
        write=lambda: evaluation.language(test_ids),
        calibration={"input_ids": ids[: scale.calibration, :-1].numpy()},
    )


TASKS: Mapping[str, Task] = {
    "text classifier": Task(
        "sentences of documentation: which of six libraries they are from",
        ("top1",),
        ("input_ids", "attention_mask"),
        text_classifier,
    ),
    "tagger": Task("lines of Python source: what each character is part of", ("top1", "f1"), ("input_ids",), tagger),
    "U-Net": Task("digits on noisy canvases: which one each pixel belongs to", ("miou",), ("images",), unet),
    "multi-label": Task("digits on noisy canvases: which are there", ("accuracy", "auc"), ("images",), multi_label),
    "one logit": Task("breast cancer: whether a tumour is malignant", ("auc",), ("input",), one_logit),
    "regression": Task("diabetes: how far it has got a year later", ("r2", "mae"), ("input",), regression),
    "embedding": Task("digits as vectors, trained by triplets", ("overlap", "cosine"), ("input",), embedding),
    "decoder": Task("Python source: which character comes next", ("perplexity", "divergence"), ("input_ids",), decoder),
}
