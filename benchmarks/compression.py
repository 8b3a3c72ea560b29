"""Accuracy at each size, by every way there is to get there, on networks trained here.

    python -m benchmarks.compression [--quick] [--seeds 0,1,2] [--networks …] [--methods …] [--budgets .3,.2]
                                     [--results FOLDER]

ResNet-14, a VGG-15 a quarter as wide as the paper's and a small vision transformer are trained on
Fashion-MNIST, then cut to shares of *all* their parameters and measured on the whole test set, each from the
bytes of its file. 1,024 training images without labels serve as calibration, 5,000 for tune and polish. The methods:

    uniform, c1, c1c2, sigma   arXiv:1910.13141's (`sigma`: its third version)
    whitened                   one-sided whitening, energy normalised per layer: the best published without training;
                               with our closed-form correction, which makes it better than the published form
    … + bn                     the same with batch-norm statistics recomputed from the calibration images
    cut                        ours: what effort `cut` serves
    channel                    the same with convolutions in the channel form alone
    refit, tune, polish        ours: what efforts `refit`, `tune` and `polish` serve
    tune + refit               ours: the tuned network decomposed anew and refit
    AIMET weight, spatial      AIMET's greedy SVD, with its classes for the calibration images (see `aimet`)

It goes on where it was stopped: docs/results/compression.csv grows row by row (compression.md, the table, and
compression.svg are made of it), trained networks lie in build/compression. `--quick` takes scikit-learn's digits, one
network, few steps, and a temporary folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from safetensors.torch import load_file, save_file

from benchmarks import masters, programs
from benchmarks.data import Data, digits, fashion_mnist
from benchmarks.networks import NETWORKS, trained
from benchmarks.results import Table, machine, markdown, place, plot
from rightrank.models.emit import formats
from rightrank.models.errors import BudgetError
from rightrank.models.improve import polish, refit, tune
from rightrank.models.improve.choose import improve
from rightrank.models.improve.distill import Recipe
from rightrank.models.improve.renorm import Renorm
from rightrank.models.master import entries, variant
from rightrank.models.master.master import Master
from rightrank.models.master.template import Template
from rightrank.models.measure.accuracy import measure
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.samples import Samples

BUDGETS = (0.7, 0.5, 0.4, 0.3, 0.2, 0.1)
PLAIN = ("uniform", "c1", "c1c2", "sigma", "whitened")
OURS = ("cut", "refit", "tune", "polish", "channel", "tune + refit")
METHODS = (*OURS, *(f"{name}{bn}" for name in reversed(PLAIN) for bn in ("", " + bn")))
AIMET = ("AIMET weight", "AIMET spatial")
# What the plot shows; the table has them all.
DRAWN = {"cut", "refit", "tune", "polish", "channel", "whitened", "whitened + bn", "c1c2", *AIMET}
AIMET_PYTHON = Path("build/aimet/bin/python")
CALIBRATION, TUNING = 1024, 5000


@dataclass(frozen=True)
class Row:
    """One file: its share of all parameters, and its accuracy on `n` test images beside the original's.
    `won` is the correction that was chosen for it, where there was a choice."""

    data: str
    network: str
    seed: int
    method: str
    budget: float
    reached: float
    params: int
    macs: int
    accuracy: float
    baseline: float
    n: int
    won: str


@dataclass(frozen=True)
class Setting:
    """How much is done: `folder` for what is made on the way, epochs of training (0: as many as it takes), the
    sizes, how all sizes are trained together, and one on its own."""

    folder: Path
    table: Table[Row]
    epochs: int = 0
    budgets: Sequence[float] = BUDGETS
    calibration: int = CALIBRATION
    tuning: int = TUNING
    tune: Recipe = tune.RECIPE
    polish: Recipe = polish.RECIPE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="digits, one network, few steps; writes no file")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--methods", help=f"default: {', '.join(METHODS)}; without --quick also {', '.join(AIMET)}")
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)))
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the tables and the plot go")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    budgets = [float(budget) for budget in given.budgets.split(",")]
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    methods = METHODS if given.quick else (*METHODS, *AIMET)
    if given.methods:
        methods = tuple(name.strip() for name in given.methods.split(","))
    if set(methods) & set(AIMET) and not AIMET_PYTHON.exists():
        parser.error(f"{AIMET_PYTHON} is missing: `make build/aimet`, or name --methods without AIMET's")
    with tempfile.TemporaryDirectory() as temporary, place(given.quick, given.results) as folder:
        table = Table(folder / "compression.csv", Row)
        if given.quick:
            setting = Setting(
                Path(temporary),
                table,
                epochs=15,
                budgets=budgets,
                calibration=256,
                tuning=256,
                tune=dataclasses.replace(tune.RECIPE, steps=40, batch=32),
                polish=dataclasses.replace(polish.RECIPE, steps=20, batch=32),
            )
            run(digits(), ["ResNet-14"], [0], methods, setting)
        else:
            setting = Setting(Path("build/compression"), table, budgets=budgets)
            run(fashion_mnist(), given.networks.split(","), [int(s) for s in given.seeds.split(",")], methods, setting)
        report(table)


def run(data: Data, networks: Sequence[str], seeds: Sequence[int], methods: Sequence[str], setting: Setting) -> None:
    """Add every row that is not there yet."""
    with progress() as bars:
        whole = bars.add_task("all", total=len(seeds) * len(networks) * len(methods))
        for seed in seeds:
            for name in networks:
                study = Study(data, name, seed, setting, bars)
                for method in methods:
                    # It has no batch norm, and no layer for the spatial form but the first, which has few parameters.
                    if not (method.endswith((" + bn", " spatial", "channel")) and name == "ViT"):
                        study.add(method)
                    bars.advance(whole)


@contextmanager
def progress() -> Iterator[Progress]:
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield bars


class Study:
    """One trained network, and all that is done to it."""

    def __init__(self, data: Data, name: str, seed: int, setting: Setting, bars: Progress) -> None:
        self.name, self.seed, self.setting, self.bars = name, seed, setting, bars
        self.data = data.padded(NETWORKS[name].margin)
        self.folder = setting.folder / f"{data.name}-{name}-{seed}"
        self.task = bars.add_task(f"{name}, seed {seed}", total=1)
        self.program = self.folder / "program"
        self._baseline = 0.0

    def add(self, method: str) -> None:
        """Measure the method at every budget; the rows that are there already are not done again."""
        key = {"data": self.data.name, "network": self.name, "seed": self.seed, "method": method}
        missing = [budget for budget in self.setting.budgets if not self.setting.table.has(**key, budget=budget)]
        if not missing:
            return
        self._prepare()
        out = self._master(method)
        planner = Planner.open(out)
        if not self._baseline:
            # The master of "tune + refit" is the tuned network's; the tuned master still has the one that was trained.
            whole = self._master("tune") if method == "tune + refit" else out
            self._baseline = self._measure(whole, Planner.open(whole).plan(1.0), None)
        original = Template.open(out).original.params
        if method in AIMET:
            return self._aimet(method, missing, original)
        for budget in missing:
            try:
                plan = planner.plan(max_params=int(budget * original))
            except BudgetError:
                plan = planner.smallest
            self.bars.update(self.task, description=f"{self.name}, seed {self.seed}: {method} at {budget}")
            changes, won = self._changes(method, out, plan)
            accuracy = self._measure(out, plan, changes)
            self._keep(method, budget, plan.params, plan.macs, original, accuracy, won)

    def _keep(
        self, method: str, budget: float, params: int, macs: int, original: int, accuracy: float, won: str
    ) -> None:
        place = (self.data.name, self.name, self.seed, method, budget, round(params / original, 5), params, macs)
        self.setting.table.add(Row(*place, accuracy, self._baseline, len(self.data.test_labels), won))

    def _aimet(self, method: str, budgets: Sequence[float], original: int) -> None:
        """What AIMET makes of the network, which is another process's: it lives in an environment of its own."""
        scheme = method.removeprefix("AIMET ")
        self.bars.update(self.task, description=f"{self.name}, seed {self.seed}: {method}")
        labelled = {"inputs": self.data.images[:CALIBRATION].clone(), "targets": self.data.labels[:CALIBRATION].clone()}
        save_file(labelled, self.folder / "labelled.safetensors")
        for budget in budgets:
            command = [AIMET_PYTHON, "-m", "benchmarks.aimet", self.name, self.folder, scheme, budget]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"AIMET failed: {done.stderr[-2000:]}")
            file = self.folder / f"aimet-{scheme}-{budget:g}.pt"
            cost = json.loads(file.with_suffix(".json").read_bytes())
            accuracy = measure(file, self.folder / "evaluation.safetensors").value
            self._keep(method, budget, cost["params"], cost["macs"], original, accuracy, "")

    def _prepare(self) -> None:
        """The trained network's program, its calibration and evaluation data."""
        if (self.folder / "evaluation.safetensors").exists():
            return
        kept = self.folder / "network.safetensors"
        model = trained(self.name, self.data, self.seed, kept, self._tell, self.setting.epochs or None)
        programs.write(model, self.data.shape, self.program)
        images = self.data.images[: max(self.setting.tuning, self.setting.calibration)].contiguous()
        save_file({"inputs": images}, self.folder / "tuning.safetensors")
        save_file({"inputs": images[: self.setting.calibration].contiguous()}, self.program / "calibration.safetensors")
        test = {"inputs": self.data.test_images.contiguous(), "targets": self.data.test_labels}
        save_file(test, self.folder / "evaluation.safetensors")

    def _tell(self, done: int, total: int, what: str = "training") -> None:
        self.bars.update(self.task, completed=done, total=total, description=f"{self.name}, seed {self.seed}: {what}")

    def _say(self, phase: str, completed: int, total: int, unit: str) -> None:
        self._tell(completed, total, phase)

    def _master(self, method: str) -> Path:
        """The folder of the master that the method cuts."""
        base = "whitened" if method in AIMET else method.removesuffix(" + bn")  # whose original they are compared with
        out = self.folder / base.replace(" ", "")
        if (out / entries.PLANS).exists():
            return out
        partial = self.folder / "partial"
        if base in PLAIN:
            masters.make(self.program, partial, criterion=base, mixed=False, progress=self._say)
            if base != "whitened":  # what is cut is cut about the mean, which only the correction makes up for
                dataclasses.replace(Template.open(partial), corrected={}).save(partial)
        elif base == "tune + refit":
            self._tuned_program(self._master("tune"), self.folder / "tuned")
            masters.make(self.folder / "tuned", partial, keep=refit.INPUTS, mixed=False, progress=self._say)
        elif base == "polish":
            masters.to_polish(self._master("tune"), partial, load_file(self.folder / "tuning.safetensors")["inputs"])
        else:
            forms = ("channel",) if base == "channel" else None
            masters.make(self.program, partial, keep=refit.INPUTS, forms=forms, mixed=False, progress=self._say)
        if base == "tune":
            state = self.folder / "tuning-state.safetensors"
            inputs = load_file(self.folder / "tuning.safetensors")["inputs"]
            tune.tune(partial, Samples.of(inputs), self.setting.tune, state=state, progress=self._say)
        partial.rename(out)
        return out

    def _tuned_program(self, tuned: Path, out: Path) -> None:
        """The tuned network at full size as a program of its own."""
        out.mkdir(exist_ok=True)
        master = Master.open(tuned)
        stored, template = master.tensors(), master.template
        program = master.program(stored)
        if template.tuned is not None:
            learnt = {name: stored[entries.tuned(name)] for name in template.tuned.tensors}
            learnt |= {name: stored[entries.knots(name)][-1] for name in template.tuned.statistics}
            program = program.with_tensors({**program.tensors, **learnt})
        program.save(out)
        shutil.copyfile(self.program / "calibration.safetensors", out / "calibration.safetensors")

    def _changes(self, method: str, out: Path, plan: Plan) -> tuple[Path | None, str]:
        """The file of what this plan has of its own, and what won."""
        file = self.folder / "changes.safetensors"
        if method in ("refit", "tune + refit", "polish"):
            training = self.setting.polish if method == "polish" else None
            return file, improve(out, plan.ranks, file, self._say, training=training)
        if method.endswith(" + bn"):
            master = Master.open(out)
            template, stored = master.template, master.tensors()
            inputs = load_file(self.program / "calibration.safetensors")["inputs"]
            cut = variant.variant(template, stored, plan.ranks)
            program = cut.program()
            moved = Renorm(program).of(program, [(inputs,)], relative=False)
            save_file(variant.changes(template, stored, plan.ranks, cut.with_(moved)), file)
            return file, "recomputed"
        if method == "tune":
            return None, "cut" if Template.open(out).knot(plan.ranks) is None else "tuned"
        return None, ""

    def _measure(self, out: Path, plan: Plan, changes: Path | None) -> float:
        path = self.folder / "variant.pt"
        with path.open("wb") as file:
            formats.write(out, plan, file, changes)
        if path.stat().st_size != plan.bytes:
            raise RuntimeError(f"planned {plan.bytes} bytes, wrote {path.stat().st_size}")
        return measure(path, self.folder / "evaluation.safetensors").value


def report(table: Table[Row]) -> None:
    """Print the table of the rows, and put it and a plot beside them."""
    lost = losses(table.rows)
    print(f"{machine()}\n\n{lost}")
    table.path.with_suffix(".md").write_text(lost)
    draw(table.rows, table.path.with_suffix(".svg"))


def losses(rows: Sequence[Row]) -> str:
    """Points of accuracy lost against the original, in Markdown: the mean over seeds, `±` half their range."""
    budgets = sorted({row.budget for row in rows}, reverse=True)
    panels: dict[str, dict[str, list[str]]] = {}
    for network in dict.fromkeys(row.network for row in rows):
        mine = [row for row in rows if row.network == network]
        baselines = [f"{100 * kept:.2f}" for _, kept in sorted({row.seed: row.baseline for row in mine}.items())]
        panel = panels.setdefault(f"**{network}**, {', '.join(baselines)} %", {})
        for method in sorted({row.method for row in mine}, key=(*METHODS, *AIMET).index):
            panel[method] = [
                cell([100 * (r.baseline - r.accuracy) for r in mine if (r.method, r.budget) == (method, budget)])
                for budget in budgets
            ]
    return markdown(budgets, panels)


def cell(values: Sequence[float]) -> str:
    """The mean, and with several values half their range."""
    spread = f" ±{(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}" if values else ""


def draw(rows: Sequence[Row], path: Path) -> None:
    panels: dict[str, Mapping[str, list[tuple[float, float]]]] = {}
    for network in dict.fromkeys(row.network for row in rows):
        mine = [row for row in rows if row.network == network]
        panels[network] = {
            method: [
                (b, 100 * statistics.mean(same))
                for b in sorted({row.budget for row in mine}, reverse=True)
                if (same := [row.accuracy for row in mine if (row.method, row.budget) == (method, b)])
            ]
            for method in dict.fromkeys(row.method for row in mine if row.method in DRAWN)
        }
    plot(path, panels, "share of all parameters", "accuracy, %")


if __name__ == "__main__":
    main()
