"""What the command says of models, sizes and keys, as people read it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from rightrank.models.card import labels_of

# Of the tensors that no layer covers, and of labels, so many are shown.
NAMED, NAMES = 3, 10
CERTIFIED = re.compile(r'(\w+)="([^"]+)";confidence="([^"]+)";n=(\d+)')


def typed(facts: dict[str, str]) -> dict[str, Any]:
    """What the headers of an artifact say about it, numbers as numbers; what was not measured is None."""
    found: dict[str, Any] = dict(facts)
    for name in ("params", "macs", "accuracy-samples"):
        if name in facts:
            found[name] = int(facts[name])
    for name in ("budget", "accuracy", "baseline-accuracy"):
        if name in facts:
            found[name] = None if facts[name] == "unmeasured" else float(facts[name])
    if "accuracy-interval" in facts:
        found["accuracy-interval"] = [float(bound) for bound in facts["accuracy-interval"].split(",")]
    return found


def sentence(facts: dict[str, str], of: str) -> str:
    """What the headers of an artifact say about it."""
    size = f"{int(facts['params']):,} parameters, {int(facts['macs']):,} MACs"
    size += f", {facts['precision']}" if "precision" in facts else ""
    size += f", {facts['format']}" if facts.get("format", "torchscript") != "torchscript" else ""
    bounded = "MACs" if of == "macs" else "file" if facts.get("precision") == "auto" else "parameters"
    share = f"{float(facts['budget']):.1%} of the original's {bounded}"
    if facts.get("ready") == "nearest":
        share += "; what was asked for is being made"
    told = f"; {certified(facts['certified'])}" if "certified" in facts else ""
    told += f"; its publisher reports {facts['reported']}" if "reported" in facts else ""
    if facts["accuracy"] == "unmeasured":
        return f"{size} ({share}), accuracy unmeasured{told}"
    found = f"{facts['metric']} {float(facts['accuracy']):.4f} on {facts['accuracy-samples']} samples"
    original = f"; the original {float(facts['baseline-accuracy']):.4f}" if "baseline-accuracy" in facts else ""
    return f"{size} ({share}), {found}{original}{told}"


def certified(said: str) -> str:
    """What `RightRank-Certified` says."""
    match = CERTIFIED.fullmatch(said)
    if match is None:
        return f"certified: {said}"
    metric, least, confidence, n = match.groups()
    return f"certified with a confidence of {confidence}: a {metric} of {least} or more in truth (by {n} samples)"


def summary_of(model: dict[str, Any]) -> Table:
    table = _rows(("Model", model["id"]), ("Names", ", ".join(model["names"]) or "none"), *_numbers(model))
    for label, words in _layers(model):
        table.add_row(label, words)
    table.add_row("Smallest", f"budget={model['min_budget']['params']:g}")
    for label, words in _precisions(model):
        table.add_row(label, words)
    others = {each["format"]: each["precisions"] for each in (model.get("formats") or [])[1:]}
    if others:
        each = (f"{name} ({', '.join(found)})" if found else f"{name} (no)" for name, found in others.items())
        table.add_row("Formats", ", ".join(["torchscript", *each]))
    for label, words in _card(model.get("card") or {}):
        table.add_row(label, words)
    for note in model.get("notes") or []:
        table.add_row("Note", note)
    return table


def checked(found: dict[str, Any]) -> Table:
    """What would become of an upload; its notes are told apart."""
    table = _rows(*_numbers(found), *_ends(found), *_layers(found))
    forms, unknown = found["undecided"]["forms"], found["undecided"]["precisions"]
    above = ", or somewhat above" if forms else ""
    table.add_row("Smallest", f"budget={found['min_budget']['params']:g}{above}")
    for label, words in _precisions(found):
        table.add_row(label, words)
    for each in found["formats"][1:]:
        table.add_row(each["format"], each["reason"] or ", ".join(_span(size) for size in each["sizes"]))
    measured = found["baseline"]
    if measured:
        table.add_row("Measured", f"{accuracy_of(measured['value'], measured['metric'])} on {measured['n']} samples")
    those = [f"the form of {len(forms)} layer{'s' if len(forms) > 1 else ''}"] if forms else []
    those += [f"what there is in {' and '.join(unknown)}"] if unknown else []
    those += ["the last bytes of the smallest files"] if found["undecided"]["smallest"] else []
    if those:
        table.add_row("Not known", f"{', '.join(those)}: --exact makes it and finds out")
    return table


def _rows(*rows: tuple[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for label, words in rows:
        table.add_row(label, words)
    return table


def _numbers(model: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Parameters", f"{model['params']:,}"
    yield "MACs", f"{model['macs']:,}"


def _layers(model: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What was removed, which layers can be cut, and what is in none."""
    eliminated = model.get("eliminated") or {}
    if eliminated.get("removed"):
        saved = 1 - eliminated["params_after"] / eliminated["params_before"]
        lost = f"{eliminated['removed']:,} zero channels, {saved:.1%} of the parameters"
        yield "Removed", f"{lost}{_seen(eliminated)}"
    decomposed = sum(layer["decomposed"] for layer in model["layers"])
    by = f", by {model['criterion']}" if "criterion" in model else ""
    yield "Layers", f"{decomposed} of {len(model['layers'])} can be cut{by}"
    yield from _uncovered(model.get("uncovered"))


def _ends(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A row for each input and output; N is how many samples, other free sizes are those that MACs are told of."""
    for number, spec in enumerate(found["inputs"]):
        yield "" if number else "Inputs", f"{spec['name']}: {spec['dtype']} {_sizes(spec['shape'])}"
    for number, spec in enumerate(found["outputs"]):
        yield "" if number else "Outputs", _sizes(spec["shape"])


def _sizes(shape: list[int | None]) -> str:
    words = [
        "N" if size is None and not axis else "free" if size is None else str(size) for axis, size in enumerate(shape)
    ]
    return f"({', '.join(words)})"


def _card(card: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What the publisher says of it."""
    for member in ("description", "license"):
        if member in card:
            yield member.capitalize(), card[member]
    for output, names in labels_of(card).items():
        more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
        yield f"Labels of {output}" if output else "Labels", f"{len(names)}: {', '.join(names[:NAMES])}{more}"
    if "preprocessing" in card:
        yield "Preprocessing", json.dumps(card["preprocessing"], ensure_ascii=False)


def _precisions(model: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """How large files are in each precision, the publisher's choice marked; nothing of an earlier service."""
    label = "Precisions"
    for each in model.get("precisions") or []:
        chosen = ", unless another is named" if each["precision"] == model["precision"] else ""
        yield label, f"{_span(each)}{chosen}"
        label = ""


def _span(each: dict[str, Any]) -> str:
    """From which size to which files are in a precision, where that is known."""
    if each["bytes"] is None:
        return str(each["precision"])
    return f"{each['precision']}: {decimal(each['smallest'])} to {decimal(each['bytes'])}"


def _uncovered(rest: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What no layer covers, a row for each of the largest; nothing of what an earlier version stored."""
    if rest is None:
        return
    yield "Uncovered", f"{rest['share']:.1%} of the parameters are in no layer that can be cut"
    for each in rest["tensors"][:NAMED]:
        readers = f"read by {' and '.join(each['read_by'])}"
        yield "", f"{each['share']:.1%} {each['name']}, {each['reason'] or readers}"
    more = rest["tensors"][NAMED:]
    count = len(more) + rest["others"]["tensors"]
    if count:
        share = rest["share"] - sum(each["share"] for each in rest["tensors"][:NAMED])
        yield "", f"{share:.1%} in {count} more"


def _seen(eliminated: dict[str, Any]) -> str:
    """How it is known that nothing is lost with zero channels; nothing of what an earlier version stored."""
    if eliminated.get("exact"):
        return ", without loss"
    compared = eliminated.get("compared")
    if compared is None:
        return ""
    return f", with the same outputs for {f'{compared} calibration' if compared else 'random'} inputs"


def table_of_sizes(curve: list[dict[str, Any]]) -> Table:
    some = any(point.get("reported") for point in curve)
    columns = ["Budget", "Parameters", "MACs", "File", "Accuracy", "95 %", "By", *(["Reported"] if some else [])]
    table = Table(*columns, box=None)
    for point in curve:
        table.add_row(
            f"{point['budget']:.3f}",
            f"{point['params']:,}",
            f"{point['macs']:,}",
            decimal(point["bytes"]),
            accuracy_of(point["accuracy"], point["metric"]),
            "" if point["low"] is None else f"{point['low']:.4f} to {point['high']:.4f}",
            point["method"],
            *([reported(point["reported"])] if some else []),
        )
    return table


def table_of(found: list[dict[str, Any]]) -> Table:
    table = Table("Names", "Model", "Parameters", "File", "Accuracy", box=None)
    for model in found:
        baseline = model["baseline"]
        table.add_row(
            ", ".join(model["names"]),
            model["id"],
            f"{model['params']:,}",
            decimal(model["bytes"]),
            accuracy_of(baseline["value"], baseline["metric"]) if baseline else "unmeasured",
        )
    return table


def table_of_keys(rows: list[dict[str, Any]]) -> Table:
    table = Table("Name", "Scopes", "Until", "Digest", box=None)
    for row in rows:
        until = f"{row['until']} (expired)" if row["expired"] else row["until"] or ""
        table.add_row(row["name"], ", ".join(row["scopes"]), until, row["digest"])
    return table


def reported(reports: list[dict[str, Any]]) -> str:
    """What a publisher reported: `wer 0.083 (n=2000)`."""
    words = []
    for each in reports:
        more = [] if each.get("n") is None else [f"n={each['n']}"]
        more += [] if each.get("low") is None else [f"{each['low']:.6g} to {each['high']:.6g}"]
        words.append(f"{each['metric']} {each['value']:.6g}" + (f" ({', '.join(more)})" if more else ""))
    return ", ".join(words)


def accuracy_of(value: float | None, metric: str | None) -> str:
    return "unmeasured" if value is None else f"{value:.4f} {metric}"
