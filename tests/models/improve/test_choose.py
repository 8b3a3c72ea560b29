from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rightrank.models.emit import formats
from rightrank.models.improve import choose, polish, tune
from rightrank.models.improve.choose import improve, method_of
from rightrank.models.improve.distill import Recipe
from rightrank.models.improve.refit import INPUTS
from rightrank.models.master import variant
from rightrank.models.master.master import Master
from rightrank.models.master.template import Template
from rightrank.models.measure.nearness import Nearness
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent
from tests.models.nets import SHAPES, Halved, Small, build, make, source


@pytest.fixture
def kept(tmp_path: Path) -> tuple[nn.Module, Path, Tensor]:
    """A master that can be refit, its module, and inputs that it has not seen."""
    torch.manual_seed(0)
    data = torch.randn(320, *SHAPES[Small]).cumsum(2)
    module = make(Small)
    folder = source(module, SHAPES[Small], tmp_path / "source", data[:256])
    build(folder, tmp_path / "master", keep=INPUTS)
    return module, tmp_path / "master", data[256:]


def outputs(folder: Path, plan: Plan, refitted: Path | None, x: Tensor) -> Tensor:
    file = io.BytesIO()
    formats.write(folder, plan, file, refitted)
    assert len(file.getvalue()) == plan.bytes
    with torch.no_grad():
        return torch.jit.load(io.BytesIO(file.getvalue()))(x)  # type: ignore[no-any-return]


def test_a_file_of_a_refit_plan_has_the_plans_size_and_is_nearer_to_the_original(
    kept: tuple[nn.Module, Path, Tensor], tmp_path: Path
) -> None:
    module, folder, unseen = kept
    plan = Planner.open(folder).plan(max_params=1900)
    assert improve(folder, plan.ranks, tmp_path / "r.safetensors", silent).startswith("refit")
    with torch.no_grad():
        whole = module(unseen)
    errors = [float((outputs(folder, plan, r, unseen) - whole).norm()) for r in (None, tmp_path / "r.safetensors")]
    assert errors[1] < errors[0]


def test_where_a_refit_is_no_better_on_held_back_inputs_the_cut_stays(
    kept: tuple[nn.Module, Path, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, unseen = kept
    planner = Planner.open(folder)
    plan = planner.plan(max_params=1900)
    stem, rank = planner.template.decomposed[0], plan.ranks[0]
    assert stem.name == "stem" and rank
    broken = {f"{side}/stem": torch.zeros(shape) for side, shape in stem.factor_shapes(rank).items()}
    fitted = choose.refit
    monkeypatch.setattr(choose, "refit", lambda *given, **named: fitted(*given, **named) and broken)
    assert improve(folder, plan.ranks, tmp_path / "r.safetensors", silent) == "cut"
    assert torch.equal(outputs(folder, plan, tmp_path / "r.safetensors", unseen), outputs(folder, plan, None, unseen))


def test_the_file_says_what_won(kept: tuple[nn.Module, Path, Tensor], tmp_path: Path) -> None:
    _, folder, _ = kept
    won = improve(folder, Planner.open(folder).smallest.ranks, tmp_path / "r.safetensors", silent)
    assert method_of(tmp_path / "r.safetensors") == won
    assert bool(load_file(tmp_path / "r.safetensors")) == (won != "cut")


def test_the_original_is_never_changed(kept: tuple[nn.Module, Path, Tensor], tmp_path: Path) -> None:
    _, folder, _ = kept
    assert improve(folder, Planner.open(folder).plan(1.0).ranks, tmp_path / "r.safetensors", silent) == "cut"
    assert load_file(tmp_path / "r.safetensors") == {}


def test_a_network_that_lost_its_zero_channels_can_be_refit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, module = torch.randn(320, *SHAPES[Halved]).cumsum(2), make(Halved)
    folder, own = tmp_path / "master", tmp_path / "r.safetensors"
    build(source(module, SHAPES[Halved], tmp_path / "source", data[:256]), folder, keep=INPUTS)
    planner = Planner.open(folder)
    plan = planner.plan(max_params=1200)
    assert improve(folder, plan.ranks, own, silent) != "cut"
    with torch.no_grad():
        whole = module(data[256:])
    errors = [float((outputs(folder, plan, each, data[256:]) - whole).norm()) for each in (None, own)]
    assert errors[1] < errors[0]
    assert improve(folder, planner.plan(0.99).ranks, own, silent) == "cut"


TRAINING = Recipe(steps=120, students=1, rate=3e-3, batch=32, classes=False)


def distances(folder: Path, plan: Plan, files: list[Path | None], module: nn.Module, x: Tensor) -> list[float]:
    with torch.no_grad():
        whole = module(x)
    return [float((outputs(folder, plan, file, x) - whole).norm()) for file in files]


def test_a_polished_plan_is_nearer_than_a_refit_one(kept: tuple[nn.Module, Path, Tensor], tmp_path: Path) -> None:
    module, folder, unseen = kept
    plan, fitted, own = Planner.open(folder).plan(max_params=2300), tmp_path / "f", tmp_path / "p"
    improve(folder, plan.ranks, fitted, silent, False)
    assert improve(folder, plan.ranks, own, silent, False, TRAINING) == "polished" == method_of(own)
    before, after = distances(folder, plan, [fitted, own], module, unseen)
    assert after < before


def test_a_training_that_makes_it_worse_is_not_kept(kept: tuple[nn.Module, Path, Tensor], tmp_path: Path) -> None:
    _, folder, _ = kept
    plan, fitted, own = Planner.open(folder).plan(max_params=1900), tmp_path / "f", tmp_path / "p"
    won = improve(folder, plan.ranks, fitted, silent, False)
    bad = dataclasses.replace(TRAINING, steps=3, rate=10.0)
    assert improve(folder, plan.ranks, own, silent, False, bad) == won
    assert own.read_bytes() == fitted.read_bytes()


def test_it_is_trained_at_each_rate_from_the_same_start(kept: tuple[nn.Module, Path, Tensor], device: str) -> None:
    _, folder, _ = kept
    planner, stored = Planner.open(folder), load_file(folder / "master.safetensors")
    template, ranks = planner.template, planner.plan(max_params=1900).ranks
    original = Master.open(folder).program(stored)
    steps: list[int] = []

    def watch(phase: str, completed: int, total: int, unit: str) -> None:
        assert (phase, total) == ("polish", 6)
        steps.append(completed)

    start = variant.variant(template, stored, ranks)
    recipe = dataclasses.replace(TRAINING, steps=3)
    x = torch.randn(64, *SHAPES[Small]).cumsum(2)
    fast, slow = polish.polish(template, original, ranks, start, Samples.of(x), recipe, watch, device=device)
    assert steps == list(range(7))

    def moved(polished: variant.Variant) -> float:
        program, before = polished.program().tensors, start.program().tensors
        return float(sum((program[name] - before[name]).norm() for name in template.graph.parameters))

    assert 0 < moved(slow) < 0.5 * moved(fast)


def test_what_is_near_enough_is_not_trained(
    kept: tuple[nn.Module, Path, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, _ = kept
    phases: list[str] = []
    plan, own = Planner.open(folder).plan(max_params=1900), tmp_path / "p"

    def watch(phase: str, *_: object) -> None:
        phases.append(phase)

    short = dataclasses.replace(TRAINING, steps=2)
    improve(folder, plan.ranks, own, watch, False, short)
    assert "polish" in phases
    phases.clear()
    monkeypatch.setattr(choose, "NEAR", 10.0)
    assert improve(folder, plan.ranks, own, watch, False, short) != "polished"
    assert phases and "polish" not in phases


@pytest.fixture
def tuned(kept: tuple[nn.Module, Path, Tensor], tmp_path: Path) -> tuple[nn.Module, Path, Tensor]:
    module, folder, unseen = kept
    inputs = load_file(folder / "refit.safetensors")["inputs"]
    recipe = dataclasses.replace(TRAINING, steps=120, students=2)
    tune.tune(folder, Samples.of(inputs), recipe, state=tmp_path / "state", progress=silent, largest=1.0, device="cpu")
    return module, folder, unseen


def favouring(wanted: str, programs_of: dict[str, Program]) -> Callable[..., list[float]]:
    """Distances by which the candidate `wanted` wins; notes the programs that it is asked about."""

    def distances(measure: Nearness, original: object, programs: list[Program], *_: object) -> list[float]:
        names = ["cut", "tuned", "refit", "cut+bn", "refit+bn"] if len(programs) > 2 else ["slow", "polished"]
        programs_of.update(zip(names, programs, strict=True))
        return [float(name != wanted) + 0.5 for name in names]

    return distances


def test_of_a_tuned_master_every_candidate_gives_its_own_file(
    tuned: tuple[nn.Module, Path, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below and above the size up to which the tuned factors are the master's own."""
    module, folder, unseen = tuned
    template, planner = Template.open(folder), Planner.open(folder)
    assert template.tuned is not None
    small, large = planner.smallest, planner.plan(max_params=template.params - 1)
    assert template.knot(small.ranks) is not None and template.knot(large.ranks) is None
    stored = load_file(folder / "master.safetensors")
    for plan in (small, large):
        for wanted in ("cut", "tuned", "refit", "polished"):
            programs_of: dict[str, Program] = {}

            monkeypatch.setattr(Nearness, "distances", favouring(wanted, programs_of))
            training = TRAINING if wanted == "polished" else None
            own = tmp_path / "own.safetensors"
            assert improve(folder, plan.ranks, own, silent, False, training) == wanted
            expected = programs_of[wanted].run([unseen])[0]
            torch.testing.assert_close(outputs(folder, plan, own, unseen), expected, rtol=1e-3, atol=1e-4)
            if (wanted, template.knot(plan.ranks) is None) in (("cut", True), ("tuned", False)):
                assert load_file(own) == {}
    assert load_file(folder / "master.safetensors").keys() == stored.keys()


def test_a_program_for_many_samples_at_once_is_compared_too(
    kept: tuple[nn.Module, Path, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held back is usually less than its batch."""
    _, folder, _ = kept
    template = json.loads((folder / "template.json").read_text())
    template["graph"]["inputs"][0][2][0] = 40
    (folder / "template.json").write_text(json.dumps(template))
    monkeypatch.setattr(choose, "INPUTS", 50)
    inputs = load_file(folder / "refit.safetensors")["inputs"]
    assert len(inputs) // 5 > 40
    recipe = dataclasses.replace(TRAINING, steps=120, students=2)
    tune.tune(folder, Samples.of(inputs), recipe, state=tmp_path / "state", progress=silent, largest=1.0, device="cpu")
    plan = Planner.open(folder).plan(max_params=1300)
    assert improve(folder, plan.ranks, tmp_path / "own", silent, False) == "tuned"
