"""Small networks and the road from a module to a master, for the tests of `models`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rightrank.models import checkpoint
from rightrank.models.assemble import build as assemble
from rightrank.models.factor.gathering import Gathering
from rightrank.models.factor.layer import Form, Layer
from rightrank.models.factor.moments import Moments
from rightrank.models.factor.room import Room
from rightrank.models.factor.sums import Gradient
from rightrank.models.plan.planner import Planner
from rightrank.models.program.graph import Constant, Graph, Input, Node, Ref
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Data, Samples


class Small(nn.Module):
    """Strided, dilated, asymmetric, grouped convolutions, batch norm, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.wide = nn.Conv2d(16, 24, (1, 5), stride=(2, 1), padding=(0, 2))
        self.grouped = nn.Conv2d(24, 24, 3, padding=1, groups=4)
        self.dilated = nn.Conv2d(24, 20, 3, padding=2, dilation=2)
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.wide(x))
        x = x + torch.relu(self.grouped(x))
        return self.head(torch.relu(self.dilated(x)).mean((2, 3)))


class Halved(Small):
    """Half of the channels of each layer are zero; those of the last convolution leave a constant behind."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.stem.weight[::2] = 0
            for layer in (self.wide, self.grouped):
                layer.weight[:12] = 0
                layer.bias[:12] = -1  # type: ignore[index]
            self.dilated.weight[10:] = 0
            self.dilated.bias[10:] = 0.5  # type: ignore[index]


class Shared(nn.Module):
    """One linear layer applied twice, and an embedding whose weight is also the output layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(16, 16)
        self.head = nn.Linear(16, 12)
        self.table = nn.Parameter(torch.randn(12, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.twice(torch.tanh(self.twice(x))))
        return self.head(x) + nn.functional.linear(x * self.table.sum(0), self.table)


class Separable(nn.Module):
    """Convolutions of every geometry, nearly of the product form k_h×1 then 1×k_w, and one of one column."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.uneven = nn.Conv2d(12, 16, (3, 5), stride=(1, 2), padding=(2, 2), dilation=(2, 1))
        self.open = nn.Conv2d(16, 16, 2)
        self.column = nn.Conv2d(16, 16, (3, 1))
        self.head = nn.Linear(16, 10)
        with torch.no_grad():
            for layer in (self.stem, self.uneven, self.open):
                outputs, inputs, height, width = layer.weight.shape
                down, up = torch.randn(4, inputs, height), torch.randn(4, outputs, width)
                separable = torch.einsum("kiy,kox->oiyx", down, up) / (4 * inputs * height * width) ** 0.5
                layer.weight.copy_(separable + 0.02 * torch.randn(layer.weight.shape))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.open(torch.relu(self.uneven(x))))
        return self.head(torch.relu(self.column(x)).mean((2, 3)))


class Painter(nn.Module):
    """A U-Net whose decoder is of transposed convolutions: one of patches that overlap, before a batch norm, and one of
    patches that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.bottom = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.wide = nn.ConvTranspose2d(24, 16, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.apart = nn.ConvTranspose2d(32, 12, 2, stride=2)
        self.head = nn.Conv2d(20, 4, 1)
        for layer in (self.stem, self.down, self.bottom, self.wide, self.apart):  # or little comes from the bottom
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.stem(x))
        second = torch.relu(self.down(first))
        x = torch.relu(self.norm(self.wide(torch.relu(self.bottom(second)))))
        x = torch.relu(self.apart(torch.cat([x, second], 1)))
        return self.head(torch.cat([x, first], 1))


class Cardinal(nn.Module):
    """Residual blocks whose middle convolutions have groups, as ResNeXt's (arXiv:1611.05431), one of them strided."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.before = nn.ModuleList([nn.Conv2d(24, 32, 1), nn.Conv2d(24, 32, 1)])
        self.middle = nn.ModuleList(
            [nn.Conv2d(32, 32, 3, padding=1, groups=4, bias=False), nn.Conv2d(32, 32, 3, stride=2, padding=1, groups=4)]
        )
        self.norm = nn.BatchNorm2d(32)
        self.after = nn.ModuleList([nn.Conv2d(32, 24, 1), nn.Conv2d(32, 24, 1)])
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.after[0](torch.relu(self.norm(self.middle[0](torch.relu(self.before[0](x))))))
        x = self.after[1](torch.relu(self.middle[1](torch.relu(self.before[1](x)))))
        return self.head(x.mean((2, 3)))


class Attending(nn.Module):
    """Attention written in einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.head = nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x)
        weights = torch.einsum("bid,bjd->bij", query, query).softmax(-1)
        return self.head(torch.einsum("b...j,b j d -> b...d", weights, x).mean(1))


class Placed(nn.Module):
    """Makes tensors as it runs: positions, and a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.inner, self.head = nn.Embedding(5, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.inner(x + self.places(torch.arange(x.shape[1], device=x.device))))
        return self.head(x) * torch.full((10,), 0.5, device=x.device)


class Recurring(nn.Module):
    """Reads sequences both ways on two levels; of the second it takes where each way has come to."""

    def __init__(self, kind: str = "LSTM", **options: Any) -> None:
        super().__init__()
        options = {"num_layers": 2, "bidirectional": True, "batch_first": True} | options
        self.cells = getattr(nn, kind)(9, 16, **options)
        self.head = nn.Linear((2 if options["bidirectional"] else 1) * (options.get("proj_size") or 16), 10)
        with torch.no_grad():
            for weight in self.cells.parameters():
                weight *= 2

    def forward(self, x: Tensor) -> Tensor:
        state = self.cells(x if self.cells.batch_first else x.transpose(0, 1))[1]
        last = state[0] if isinstance(state, tuple) else state
        ways = 2 if self.cells.bidirectional else 1
        return self.head(last[-ways:].transpose(0, 1).flatten(1))


def recurring(
    cell: str, levels: int = 1, both: bool = False, batch_first: bool = True, biased: bool = True, projection: int = 0
) -> Program:
    """A program of one recurrent call, of sequences (N, T, 9) or (T, N, 9) as they come, which gives back all that the
    call does, from a state that is all of 0.1."""
    ways, gates = 1 + both, {"lstm": 4, "gru": 3}.get(cell, 1)
    tensors = {}
    for number in range(levels * ways):
        width = 9 if number < ways else ways * (projection or 16)
        shapes = [(gates * 16, width), (gates * 16, projection or 16), *[(gates * 16,)] * 2 * biased]
        shapes += [(projection, 16)] * bool(projection)
        tensors |= {f"{number}.{place}": 0.3 * torch.randn(shape) for place, shape in enumerate(shapes)}
    sizes = (None, 7, 9) if batch_first else (7, None, 9)
    state = [Ref(f"state{part}") for part in range(1 + (cell == "lstm"))]
    here = (("device", Constant("device", "cpu")),)
    begin = [
        Node(each.name, "aten.full.default", ((levels * ways, Ref("count"), size), 0.1), here, (each.name,))
        for each, size in zip(state, (projection or 16, 16), strict=False)
    ]
    names = tuple(Ref(name) for name in tensors)
    args = (
        Ref("x"),
        tuple(state) if cell == "lstm" else state[0],
        names,
        biased,
        levels,
        0.0,
        False,
        both,
        batch_first,
    )
    outputs = ("made", *(f"last{part}" for part in range(len(state))))
    count = Node("count", "aten.sym_size.int", (Ref("x"), 1 - batch_first), (), ("count",))
    graph = Graph(
        inputs=(Input("x", "float32", sizes, (2, 7, 9) if batch_first else (7, 2, 9)),),
        tensors={name: name for name in tensors},
        parameters=frozenset(tensors),
        nodes=(count, *begin, Node("cells", f"aten.{cell}.input", args, (), outputs)),
        outputs=outputs,
    )
    return Program(graph, tensors)


SHAPES = {
    Small: (3, 12, 12),
    Halved: (3, 12, 12),
    Shared: (16,),
    Separable: (3, 16, 16),
    Painter: (2, 16, 16),
    Cardinal: (3, 12, 12),
    Attending: (5, 16),
    Placed: (5, 16),
    Recurring: (7, 9),
}


def make(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = kind().eval()
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return module


def export(
    module: nn.Module, shape: tuple[int, ...], path: Path, dtype: torch.dtype = torch.float32, batch: int | None = None
) -> Path:
    """Exported for batches of any size, or of one."""
    free = None if batch else ({0: torch.export.Dim("batch", min=1)},)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The tensor attributes .*_flat_weights")  # of torch's own recurrent modules
        program = torch.export.export(module, (torch.randn(batch or 2, *shape).to(dtype),), dynamic_shapes=free)
    torch.export.save(program, path)
    return path


def read(module: nn.Module, shape: tuple[int, ...], folder: Path, dtype: torch.dtype = torch.float32) -> Program:
    return checkpoint.read(export(module, shape, folder / "model.pt2", dtype), None)


def source(
    module: nn.Module,
    shape: tuple[int, ...],
    folder: Path,
    calibration: Tensor | None = None,
    batch: int | None = None,
) -> Path:
    """A folder such as the sandbox leaves: program, weights, perhaps calibration inputs, whose type it then takes."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.float32 if calibration is None else calibration.dtype
    checkpoint.read(export(module, shape, folder / "model.pt2", dtype, batch), None).save(folder)
    if calibration is not None:
        save_file({"inputs": calibration}, folder / "calibration.safetensors")
    return folder


def build(folder: Path, out: Path, **options: Any) -> dict[str, Any]:
    """A master in `out` of what `source` left in a folder; without levels, which take as long as all else of a small
    network, where they are not asked for."""
    calibration = folder / "calibration.safetensors"
    program = Program.open(folder)
    inputs = Samples.stored(program.graph, load_file(calibration)) if calibration.exists() else None
    return assemble.build(program, out, inputs, **{"mixed": False, **options})


def planner(
    kind: type[nn.Module],
    folder: Path,
    criterion: str = "c1c2",
    calibration: Tensor | None = None,
    mixed: bool = False,
) -> tuple[nn.Module, Path, Planner]:
    """A module, its master's folder, and the planner over it."""
    module = make(kind)
    build(
        source(module, SHAPES[kind], folder / "source", calibration),
        folder / "master",
        criterion=criterion,
        mixed=mixed,
    )
    return module, folder / "master", Planner.open(folder / "master")


def gather(
    program: Program,
    layers: tuple[Layer, ...],
    inputs: Tensor,
    gradient: Gradient = "logits",
    forms: Mapping[str, Form] | None = None,
    memory: int | None = None,
) -> list[Moments]:
    """The moments of inputs that are added at once, with sums in so many bytes of memory."""
    with tempfile.TemporaryDirectory() as folder:
        gathering = Gathering(program, layers, [gradient], forms or {}, Room(Path(folder), memory))
        gathering.add(Samples.of(inputs), lambda done: None)
        return list(gathering.moments(gradient))


WORDS, LENGTHS = 20, (3, 5, 8)


class Encoder(nn.Module):
    """A classifier of texts of any length, with a mask that says what of them is filled up."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.words, self.inner, self.last = nn.Embedding(WORDS, 24), nn.Linear(24, 48), nn.Linear(48, classes)
        self.over, self.under = nn.Linear(48, 48), nn.Linear(48, 48)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = attention_mask.unsqueeze(2).float()
        x = torch.tanh(3 * self.inner(self.words(input_ids)))
        x = x + torch.tanh(self.under(torch.relu(self.over(x))))
        return self.last((x * weight).sum(1) / weight.sum(1).clamp_min(1))


def encoder(folder: Path) -> tuple[Encoder, Program]:
    """It, and its program, whose batch and length are free."""
    torch.manual_seed(0)
    module = Encoder().eval()
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2)}
    example = tuple(torch.ones(4, 6, dtype=torch.int64) for _ in range(2))
    torch.export.save(torch.export.export(module, example, dynamic_shapes=(free, free)), folder / "encoder.pt2")
    return module, checkpoint.read(folder / "encoder.pt2")


def encoded(count: int, seed: int = 1) -> Data:
    """So many samples of each length, a group for each, the last word of every second one filled up; and what they are
    to be, by the module itself."""
    torch.manual_seed(0)
    module, generator = Encoder().eval(), torch.Generator().manual_seed(seed)
    groups, targets = [], []
    for length in LENGTHS:
        ids = torch.randint(0, WORDS, (count, length), generator=generator)
        mask = torch.ones(count, length, dtype=torch.int64)
        mask[::2, -1] = 0
        groups.append((ids, mask))
        with torch.no_grad():
            targets.append(module(ids, mask).argmax(1))
    return Data(Samples(tuple(groups), (True, True)), tuple(targets))
