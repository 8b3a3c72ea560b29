"""What is uploaded: small networks that differ in their weights, and files that are no networks.

One network is exported; the others are its archive with other numbers, so that making one takes milliseconds.
"""

from __future__ import annotations

import io
import random
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from torch import nn

from benchmarks import programs

SHAPE = (1, 8, 8)
CLASSES = 10
SAMPLES = 64
# Models share these, so that deleting one must not take another's data away.
EVALUATIONS = 4
# Pickled: a call of os.system("true").
CALL = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."


@dataclass(frozen=True)
class Upload:
    """A form. `sound`: whether it must become a model; `door`: whether it must be refused before it is queued."""

    title: str
    files: dict[str, tuple[str, bytes]]
    fields: dict[str, str] = field(default_factory=dict)
    sound: bool = True
    door: bool = False


def export(file: Path) -> None:
    """The network that all others are made of."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, CLASSES),
    ).eval()
    programs.export(network, SHAPE, file)


class Material:
    """Uploads by number, made of an `export`; the same number and seed are the same upload."""

    def __init__(self, file: Path, seed: int) -> None:
        self.seed = seed
        with zipfile.ZipFile(file) as archive:
            self._entries = {name: archive.read(name) for name in archive.namelist()}
        sizes = {4 * 512 * 64, 4 * 64 * CLASSES}
        self._weights = [name for name, data in self._entries.items() if len(data) in sizes and "/weights/" in name]
        assert len(self._weights) == 2
        self.evaluations = [self._evaluation(number) for number in range(EVALUATIONS)]

    def network(self, number: int) -> bytes:
        """The archive of a network of its own."""
        numbers = np.random.default_rng([self.seed, number])
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w") as archive:
            for name, data in self._entries.items():
                if name in self._weights:
                    data = (0.05 * numbers.standard_normal(len(data) // 4, np.float32)).tobytes()
                archive.writestr(name, data)
        return written.getvalue()

    def sound(self, number: int, options: str = '{"budgets": [0.5]}', name: str = "") -> Upload:
        """A network with its evaluation data."""
        files = {
            "checkpoint": ("model.pt2", self.network(number)),
            "evaluation": ("evaluation.safetensors", self.evaluations[number % EVALUATIONS]),
        }
        fields = {"options": options} | ({"name": name} if name else {})
        return Upload(f"network {number}", files, {key: value for key, value in fields.items() if value})

    def broken(self, number: int) -> Upload:
        """Something that can be no model, another one for each number."""
        chance = random.Random(self.seed * 1_000_003 + number)
        whole = self.network(-number - 1 & 0x7FFFFFFF)
        kind = chance.choice(("cut", "noise", "call", "labels", "empty", "options", "architecture"))
        checkpoint, evaluation, fields = ("model.pt2", whole), b"", {}
        if kind == "cut":
            checkpoint = ("model.pt2", whole[: chance.randrange(1000, len(whole) - 1000)])
        elif kind == "noise":
            checkpoint = ("model.pt2", chance.randbytes(5000))
        elif kind == "call":
            checkpoint = ("model.pt", CALL + chance.randbytes(16))
            fields = {"architecture": "mlp"}
        elif kind == "labels":
            evaluation = save({"inputs": np.zeros((8, 3, 5), np.float32), "targets": np.full(8, number, np.int64)})
        elif kind == "empty":
            checkpoint = ("model.pt2", b"")
        elif kind == "options":
            fields = {"options": '{"effort": "heroic"}'}
        elif kind == "architecture":
            checkpoint = ("model.safetensors", save({"weight": np.full((2, 2), number, np.float32)}))
            fields = {"architecture": "resnet18"}
        files = {"checkpoint": checkpoint}
        if evaluation:
            files["evaluation"] = ("evaluation.safetensors", evaluation)
        return Upload(f"broken {number} ({kind})", files, fields, False, kind in ("empty", "options"))

    def _evaluation(self, number: int) -> bytes:
        numbers = np.random.default_rng([self.seed, 1 << 20, number])
        inputs = numbers.standard_normal((SAMPLES, *SHAPE), np.float32)
        return save({"inputs": inputs, "targets": numbers.integers(0, CLASSES, SAMPLES)})


def runs(data: bytes) -> bool:
    """Whether the bytes are a file that loads, takes an input and gives a number for each class."""
    try:
        model = torch.jit.load(io.BytesIO(data))  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            output = model(torch.zeros(1, *SHAPE))
    except RuntimeError:
        return False
    return tuple(output.shape) == (1, CLASSES)
