"""A finished model: what its manifest says and which files it can be had as; and what is known of one of its cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rightrank.models.emit.format import FIRST, Output
from rightrank.models.emit.formats import FORMATS, format_of, offered
from rightrank.models.emit.precision import encoding_in, written_in
from rightrank.models.errors import FormatError
from rightrank.models.plan.planner import COMMON, Plan, Planner
from rightrank.service.problems import Problem


@dataclass(frozen=True, slots=True)
class Model:
    """A finished model: its manifest, and a planner for the files of each format and precision. `tag` tells it from the
    same one uploaded again; `precision` is the one that its publisher chose for those who name none."""

    id: str
    manifest: Mapping[str, Any]
    tag: str
    precision: str
    _planners: dict[Output, Planner]
    _offered: dict[str, Mapping[str, str]]

    @staticmethod
    def open(folder: Path, id: str, manifest: Mapping[str, Any], tag: str) -> Model:
        """The model whose template and plans are in `folder`."""
        exact = Planner.open(folder, output_of(manifest))
        found = offered(exact.template, exact.mixture is not None, exact.output)
        chosen = str(manifest.get("options", {}).get("precision", next(iter(found))))
        return Model(id, manifest, tag, chosen, {exact.output: exact}, {exact.output.format: found})

    @property
    def budgets(self) -> Sequence[float]:
        """What is measured right after the upload, which names it or has the common ones; the largest first."""
        found: Sequence[float] = self.manifest.get("options", {}).get("budgets", COMMON)
        return found

    @property
    def planner(self) -> Planner:
        """For files as the publisher chose them."""
        return self.planner_in()

    @property
    def precisions(self) -> Mapping[str, str]:
        """Those that its TorchScript files can have, its own first, with their encodings."""
        return self.precisions_in(FIRST.format)

    def precisions_in(self, format: str) -> Mapping[str, str]:
        """Those that its files of a format can have. Raises FormatError where there can be none of that format, and
        `Problem` where not here."""
        if format not in self._offered:
            if format not in FORMATS:
                raise FormatError(f"There is no format {format[:40]!r}.", f"There are {', '.join(FORMATS)}.")
            output = output_of(self.manifest, format)
            # What others make, a plan needs nothing for.
            if not format_of(output).separate and (why := format_of(output).available()):
                raise Problem("format-missing", why)
            exact = self._exact
            self._offered[format] = offered(exact.template, exact.mixture is not None, output)
        return self._offered[format]

    def precision_in(self, format: str) -> str:
        """The one that its files of a format come in where a request names none: the publisher's, if they can."""
        found = self.precisions_in(format)
        return self.precision if self.precision in found else next(iter(found))

    def planner_in(self, precision: str | None = None, format: str = FIRST.format) -> Planner:
        """For files in a precision, by default the publisher's, of a format. Raises PrecisionError for one that they
        cannot have, and as `precisions_in` does."""
        found, template = self.precisions_in(format), self._exact.template
        encoding = encoding_in(found, self.precision_in(format) if precision is None else precision, template, format)
        output = written_in(output_of(self.manifest, format), encoding)
        planner = self._planners.get(output)
        if planner is None:
            planner = self._planners[output] = self._exact.written_as(output)
        return planner

    def precision_of(self, output: Output) -> str:
        """The precision that files written so have."""
        found = self.precisions_in(output.format)
        return next(name for name, encoding in found.items() if encoding == output.encoding)

    def named(self, plan: Plan) -> dict[str, str]:
        """What a query has to name to get files like a plan's: nothing where they are as the publisher chose."""
        format = plan.output.format
        named = {} if format == FIRST.format else {"format": format}
        precision = self.precision_of(plan.output)
        return named if precision == self.precision_in(format) else {**named, "precision": precision}

    def find(self, digest: str) -> Plan | None:
        """The plan with this digest of any format and precision that files can have here. The first time it looks at
        every plan, which takes a moment where there are many."""
        for format in FORMATS:
            with suppress(FormatError, Problem):
                for precision in self.precisions_in(format):
                    if (plan := self.planner_in(precision, format).find(digest)) is not None:
                        return plan
        return None

    @property
    def _exact(self) -> Planner:
        return self._planners[output_of(self.manifest)]


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a cut for good: its plan, its bytes' digest and size, its measurement if there are data and
    it is a finite number.

    `method`: how it was made (see `jobs.cutter`). `stored`: the artifact is too large for the cache and is kept
    in the store.
    """

    plan: Plan
    sha256: str
    size: int
    measurement: Mapping[str, Any] | None
    method: str
    stored: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "plan": self.plan.to_json(),
            "sha256": self.sha256,
            "size": self.size,
            "measurement": self.measurement,
            "method": self.method,
            "stored": self.stored,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Record:
        plan = Plan.from_json(data["plan"])
        measurement = data["measurement"]
        if measurement and measurement["value"] is None:
            measurement = None
        return Record(plan, data["sha256"], data["size"], measurement, data["method"], data["stored"])


def reached(model: Model, plan: Plan, of: str | None = None) -> float:
    """Which budget a plan is: its share of the original's MACs where `of` is macs, else of its parameters, or where
    ranks and steps are mixed of its file."""
    if of == "macs" and model.manifest["macs"]:
        return float(plan.macs / model.manifest["macs"])
    return float(plan.bytes / model.manifest["bytes"]) if plan.output.coded else plan.budget


def told(model: Model, record: Record, of: str | None) -> dict[str, str]:
    """What a cut is, as the headers of its file say it; the budget that was reached is one of what `of` says."""
    manifest, plan, measurement = model.manifest, record.plan, record.measurement
    baseline = manifest["baseline"]
    found = {
        "RightRank-Model": model.id,
        "RightRank-Plan": plan.digest,
        "RightRank-Method": record.method,
        "RightRank-Format": plan.output.format,
        "RightRank-Precision": model.precision_of(plan.output),
        "RightRank-Params": str(plan.params),
        "RightRank-Macs": str(plan.macs),
        "RightRank-Budget": repr(reached(model, plan, of)),
        "RightRank-Accuracy": repr(measurement["value"]) if measurement else "unmeasured",
    }
    if measurement:
        found["RightRank-Accuracy-Samples"] = str(measurement["n"])
        found["RightRank-Metric"] = measurement["metric"]
        if measurement["low"] is not None:
            found["RightRank-Accuracy-Interval"] = f"{measurement['low']!r}, {measurement['high']!r}"
    if baseline and baseline["value"] is not None:
        found["RightRank-Baseline-Accuracy"] = repr(baseline["value"])
    return found


def least_of(planner: Planner) -> Mapping[str, float]:
    """The smallest budgets that files can meet, by what they are a share of."""
    return {"params": planner.least(), "macs": planner.least("macs")}


def in_precision(model: Model, name: str, format: str = FIRST.format) -> Mapping[str, Any]:
    """How large the files of a format are in a precision."""
    planner = model.planner_in(name, format)
    return {
        "precision": name,
        "bytes": planner.largest.bytes,
        "smallest": planner.least_bytes,
        "min_budget": planner.least(),
    }


def output_of(manifest: Mapping[str, Any], format: str = FIRST.format) -> Output:
    """How a model's files of a format are written: as when it was published, whatever this version can do since.
    Manifests from before there were several writers, and formats that came later, have the first."""
    return Output(format, manifest.get("writers", {}).get(format, 1))
