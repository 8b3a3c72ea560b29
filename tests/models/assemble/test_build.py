from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from rightrank.models.emit import formats
from rightrank.models.errors import Cancelled, DataError, MalformedCheckpoint, UnsupportedCheckpoint
from rightrank.models.improve import tune
from rightrank.models.improve.choose import improve
from rightrank.models.improve.refit import INPUTS
from rightrank.models.master.tensorfile import TensorFile
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent
from rightrank.models.simplify import zeros
from tests.models.nets import SHAPES, Halved, Small, build, make, planner, source


def outputs(folder: Path, plan: object, x: torch.Tensor) -> torch.Tensor:
    file = io.BytesIO()
    formats.write(folder, plan, file)  # type: ignore[arg-type]
    with torch.no_grad():
        return torch.jit.load(io.BytesIO(file.getvalue()))(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("criterion", ["c1c2", "logit"])
def test_building_twice_gives_the_same_bytes(criterion: str, tmp_path: Path) -> None:
    data = torch.randn(40, *SHAPES[Small])
    folders = [planner(Small, tmp_path / name, criterion, data)[1] for name in "ab"]
    for file in ("master.safetensors", "template.json", "plans.npz"):
        one, other = (hashlib.sha256((folder / file).read_bytes()).hexdigest() for folder in folders)
        assert one == other, file


def test_the_description_counts_every_parameter(tmp_path: Path) -> None:
    module = make(Small)
    described = build(source(module, SHAPES[Small], tmp_path / "s"), tmp_path / "m")
    assert described["params"] == sum(p.numel() for p in module.parameters())
    assert described["criterion"] == "energy"
    assert json.dumps(described)


def test_calibration_data_choose_the_criterion_that_uses_them(tmp_path: Path) -> None:
    folder = source(make(Small), SHAPES[Small], tmp_path / "s", torch.randn(40, *SHAPES[Small]))
    assert build(folder, tmp_path / "m")["criterion"] == "logit"


@pytest.mark.parametrize("criterion", ["whitened", "logit"])
def test_a_criterion_that_needs_data_says_so(criterion: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="calibration"):
        build(source(make(Small), SHAPES[Small], tmp_path / "s"), tmp_path / "m", criterion=criterion)


def test_an_unknown_criterion_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="c1c2"):
        build(source(make(Small), SHAPES[Small], tmp_path / "s"), tmp_path / "m", criterion="magic")


def test_cutting_in_the_metric_of_the_outputs_changes_them_less_than_plain_svd(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixing = torch.randn(3, 3)
    data = torch.einsum("ij,njhw->nihw", mixing, torch.randn(300, *SHAPES[Small]).cumsum(2)).contiguous()
    errors = {}
    for criterion in ("energy", "logit"):
        module, folder, planner_ = planner(Small, tmp_path / criterion, criterion, data[:200])
        x = data[200:]
        with torch.no_grad():
            whole = module(x)
        errors[criterion] = float((outputs(folder, planner_.plan(0.5), x) - whole).square().mean())
    assert errors["logit"] < errors["energy"]


def test_with_data_the_whole_budget_is_still_the_original_bit_for_bit(tmp_path: Path) -> None:
    x = torch.randn(4, *SHAPES[Small])
    module, folder, planner_ = planner(Small, tmp_path, "logit", torch.randn(40, *SHAPES[Small]))
    with torch.no_grad():
        assert torch.equal(outputs(folder, planner_.plan(1.0), x), module(x))


def test_progress_counts_layers_and_may_stop_the_work(tmp_path: Path) -> None:
    seen = []

    def stop_at_two(phase: str, completed: int, total: int, unit: str) -> None:
        seen.append((phase, completed, total, unit))
        if completed == 2:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        build(source(make(Small), SHAPES[Small], tmp_path / "s"), tmp_path / "m", progress=stop_at_two)
    assert [s[:2] for s in seen if s[0] == "decompose"] == [("decompose", 0), ("decompose", 1), ("decompose", 2)]


FILES = ("master.safetensors", "template.json", "plans.npz")


def built(kind: type[torch.nn.Module], folder: Path, calibration: torch.Tensor | None = None) -> dict[str, object]:
    return build(source(make(kind), SHAPES[kind], folder / "source", calibration), folder / "master")


@pytest.mark.parametrize("criterion", ["c1c2", "logit"])
def test_zero_channels_go_before_the_decomposition(criterion: str, tmp_path: Path) -> None:
    x, data = torch.randn(8, *SHAPES[Small]), torch.randn(40, *SHAPES[Small])
    module, folder, planner_ = planner(Halved, tmp_path, criterion, data)
    whole, reduced = planner_.plan(1.0), planner_.plan(0.99)
    with torch.no_grad():
        expected = module(x)
    assert torch.equal(outputs(folder, whole, x), expected)
    assert whole.original and whole.params == sum(p.numel() for p in module.parameters())
    assert reduced.reduced and not any(reduced.ranks) and reduced.budget < 0.5
    got = outputs(folder, reduced, x)
    assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    stem = next(layer for layer in planner_.template.layers if layer.name == "stem")
    assert stem.n == 8


def test_what_went_is_described_and_counted_from_the_upload(tmp_path: Path) -> None:
    described = built(Halved, tmp_path)
    eliminated = described["eliminated"]
    assert isinstance(eliminated, dict)
    assert described["params"] == eliminated["params_before"] > 2 * eliminated["params_after"]
    assert {layer["name"]: layer["removed"] for layer in eliminated["layers"] if layer["removed"]} == {
        "stem": 8, "wide": 12, "grouped": 12, "dilated": 10
    }  # fmt: skip
    assert eliminated["rejected"] == ""
    assert json.dumps(described)


def test_a_tensor_that_stays_as_it_was_is_stored_once(tmp_path: Path) -> None:
    module = make(Small)
    with torch.no_grad():
        module.dilated.weight[:5] = 0  # type: ignore[index,operator]
        module.dilated.bias[:5] = -1  # type: ignore[index,operator]
    build(source(module, SHAPES[Small], tmp_path / "s"), tmp_path / "m")
    file = TensorFile(tmp_path / "m/master.safetensors")
    apart = {"dilated.weight", "dilated.bias", "head.weight"}
    for name, _ in module.named_parameters():
        assert f"dense/{name}" in file and (f"uploaded/{name}" in file) == (name in apart)


def test_a_network_without_zero_channels_is_built_as_if_nobody_had_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = built(Small, tmp_path / "a")
    assert described["eliminated"] == {
        "layers": [], "params_before": described["params"], "params_after": described["params"],
        "difference": 0.0, "rejected": "", "removed": 0, "exact": True, "compared": 0,
    }  # fmt: skip
    monkeypatch.setattr(zeros, "eliminate", lambda program, **_: (program, zeros.Report((), 0, 0)))
    built(Small, tmp_path / "b")
    for name in FILES:
        assert (tmp_path / "a/master" / name).read_bytes() == (tmp_path / "b/master" / name).read_bytes()
    assert b"uploaded" not in (tmp_path / "a/master/template.json").read_bytes()
    assert not any(name.startswith("uploaded/") for name in load_file(tmp_path / "a/master/master.safetensors"))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes"), ValueError("zip"), KeyError("name"), ZeroDivisionError(), MalformedCheckpoint("no run")],
)
def test_a_program_that_elimination_stumbles_over_is_used_as_it_is(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(zeros, "eliminate", stumble)
    described = built(Halved, tmp_path)
    eliminated = described["eliminated"]
    assert isinstance(eliminated, dict)
    assert type(error).__name__ in eliminated["rejected"] and eliminated["removed"] == 0
    assert eliminated["params_after"] == described["params"]
    assert b"uploaded" not in (tmp_path / "master/template.json").read_bytes()


def test_a_job_that_is_cancelled_meanwhile_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Cancelled("stop")

    monkeypatch.setattr(zeros, "eliminate", stop)
    with pytest.raises(Cancelled):
        built(Halved, tmp_path)


def test_a_rejected_elimination_leaves_the_upload_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["rightrank.models.simplify.zeros.eliminate"], "compare", lambda *_: (1.0, 1e-5))
    described = built(Halved, tmp_path)
    eliminated = described["eliminated"]
    assert isinstance(eliminated, dict)
    assert "differ" in eliminated["rejected"] and eliminated["removed"] == 0
    assert eliminated["params_after"] == described["params"]
    assert b"uploaded" not in (tmp_path / "master/template.json").read_bytes()


def test_calibration_inputs_are_what_the_two_programs_are_compared_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = zeros.eliminate

    def watch(*arguments: object, **options: object) -> object:
        seen.append(options["inputs"])
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(zeros, "eliminate", watch)
    data = torch.randn(40, *SHAPES[Small])
    described = [built(Halved, tmp_path / "with", data), built(Halved, tmp_path / "without")]
    assert torch.equal(seen[0].groups[0][0], data) and seen[1] is None
    assert [each["eliminated"]["compared"] for each in described] == [16, 0]  # type: ignore[index]


def test_where_too_little_is_left_to_be_cut_there_are_two_sizes(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3)).eval()
    with torch.no_grad():
        module[0].weight[1:] = 0  # type: ignore[operator]
    build(source(module, (6,), tmp_path / "source"), tmp_path / "master")
    planner_, x = Planner.open(tmp_path / "master"), torch.randn(5, 6)
    reduced, whole = planner_.smallest, planner_.plan(1.0)
    assert len(planner_) == 2 and reduced.ranks == whole.ranks == () and reduced.digest != whole.digest
    assert (reduced.reduced, whole.original) == (True, True)
    for plan in (reduced, whole):
        with torch.no_grad():
            torch.testing.assert_close(outputs(tmp_path / "master", plan, x), module(x))


def test_building_an_eliminated_network_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        built(Halved, tmp_path / name)
    for name in FILES:
        assert (tmp_path / "a/master" / name).read_bytes() == (tmp_path / "b/master" / name).read_bytes()


LENGTH, WORDS = 6, 12


class Reader(nn.Module):
    """Its inputs are integers: all that calibration inputs allow is done for it too."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 16)
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(3 * self.first(self.words(x))).mean(1))


@pytest.fixture(scope="module")
def tokenised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A master, and what is said of it."""
    folder = tmp_path_factory.mktemp("tokens")
    program = source(make(Reader), (LENGTH,), folder / "source", tokens(400))
    return folder / "master", build(program, folder / "master", keep=INPUTS)


def tokens(count: int, seed: int = 1) -> Tensor:
    """Not all of the words are met: the data have something to say."""
    return torch.randint(0, WORDS // 2, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def error(folder: Path, plan: Plan, changes: Path | None = None) -> float:
    file = io.BytesIO()
    formats.write(folder, plan, file, changes)
    x = tokens(100, seed=2)
    with torch.no_grad():
        return float((torch.jit.load(io.BytesIO(file.getvalue()))(x) - make(Reader)(x)).norm())


def test_a_cut_of_a_network_of_tokens_is_nearer_than_one_that_knows_no_data(
    tokenised: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    folder, described = tokenised
    assert described["criterion"] in ("logit", "fisher")
    build(folder.parent / "source", tmp_path / "blind", criterion="energy")
    planner = Planner.open(folder)
    size = int(0.7 * planner.template.params)
    plan = Planner.open(tmp_path / "blind").plan(max_params=size)
    cut, uninformed = error(folder, planner.plan(max_params=size)), error(tmp_path / "blind", plan)
    assert cut < uninformed


def test_its_refit_is_nearer_still(tokenised: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    folder, _ = tokenised
    planner = Planner.open(folder)
    plan = planner.plan(max_params=int(0.5 * planner.template.params))
    assert improve(folder, plan.ranks, tmp_path / "changes", silent).startswith("refit")
    assert error(folder, plan, tmp_path / "changes") < error(folder, plan)


def test_it_can_be_tuned(tokenised: tuple[Path, dict[str, object]]) -> None:
    folder, _ = tokenised
    recipe = dataclasses.replace(tune.RECIPE, steps=120, batch=32)
    curve = tune.tune(folder, Samples.of(tokens(400)), recipe, state=folder / "state", progress=silent)
    assert curve[0]["tuned"] < curve[0]["cut"]


def test_a_program_without_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="nothing to cut"):
        build(source(torch.nn.ReLU(), (3,), tmp_path / "s"), tmp_path / "m")


def digits() -> tuple[Tensor, Tensor]:
    """Images (N, 8, 8), row after row, and which digits they are."""
    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32) / 16, torch.tensor(found.target)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_recurrent_classifier_gets_smaller_and_keeps_more_than_by_whitening(kind: str, tmp_path: Path) -> None:
    """From an export to files, whose sizes are known before; at the whole size to the bit what was uploaded."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = getattr(nn, kind)(8, 48, 2, batch_first=True)
            self.head = nn.Linear(48, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cells(x)[0].mean(1))

    torch.manual_seed(0)
    (x, y), module = digits(), Reader()
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(12):
        for chosen in torch.randperm(1200).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[chosen]), y[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    module.eval()
    kept = {}
    folder = source(module, (8, 8), tmp_path / "s", x[:1200])
    for criterion in ("logit", "whitened"):
        described = build(folder, tmp_path / criterion, criterion=criterion)
        assert described["min_budget"]["params"] < 0.16
        planner = Planner.open(tmp_path / criterion, formats.latest())
        ranks: list[list[int]] = []
        for size in (0.2, 0.3, 0.5, 1.0):
            plan, file = planner.plan(size), io.BytesIO()
            formats.write(tmp_path / criterion, plan, file)
            assert len(file.getvalue()) == plan.bytes <= size * described["bytes"]
            loaded = torch.jit.load(io.BytesIO(file.getvalue()))
            assert sum(each.numel() for each in loaded.parameters()) == plan.params <= size * described["params"]
            ranks.append([rank or 10**6 for rank in plan.ranks])
            with torch.no_grad():
                answers = loaded(x[1200:])
                if size == 1:
                    assert torch.equal(answers, module(x[1200:]))
            kept[criterion, size] = float((answers.argmax(1) == y[1200:]).float().mean())
        assert all(
            a <= b for one, other in zip(ranks, ranks[1:], strict=False) for a, b in zip(one, other, strict=True)
        )
    assert kept["logit", 1.0] > 0.8
    assert kept["logit", 0.5] > kept["logit", 1.0] - 0.02
    assert kept["logit", 0.3] > kept["logit", 1.0] - 0.08
    assert kept["logit", 0.2] > kept["whitened", 0.2]
