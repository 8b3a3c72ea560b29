from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rightrank.models.errors import UnreadableMaster
from rightrank.models.master.template import FORMAT, UNNAMED, Template
from tests.models.nets import SHAPES, Halved, Small, planner

GOLDEN = Path(__file__).parents[2] / "golden" / "masters"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A template as it is in its file."""
    _, folder, _ = planner(Small, tmp_path_factory.mktemp("template"), "logit", torch.randn(40, *SHAPES[Small]))
    found: dict[str, Any] = json.loads((folder / "template.json").read_text())
    return found


@pytest.mark.parametrize("kind", [Small, Halved])
def test_a_template_survives_its_file(kind: type[torch.nn.Module], tmp_path: Path) -> None:
    template = planner(kind, tmp_path)[2].template
    assert template.format == FORMAT and (template.uploaded is not None) == (kind is Halved)
    template.save(tmp_path)
    assert Template.open(tmp_path) == template


@pytest.mark.parametrize("format", [FORMAT + 1, "quantised", None])
def test_a_format_that_is_not_known_is_refused_with_both_formats(stored: dict[str, Any], format: Any) -> None:
    with pytest.raises(UnreadableMaster, match=f"format {format}, and this version reads up to {FORMAT}"):
        Template.from_json({**stored, "format": format})


@pytest.mark.parametrize("key", ["graph", "layers", "tensors", "corrected", "tuned", "params", "macs"])
def test_what_a_template_lacks_is_named_in_words(stored: dict[str, Any], key: str) -> None:
    with pytest.raises(UnreadableMaster, match=f"does not know .*{key}.*delete the model and upload it again"):
        Template.from_json({name: value for name, value in stored.items() if name != key})


def test_a_layer_of_a_form_that_is_not_known_is_refused_in_words(stored: dict[str, Any]) -> None:
    layers = [{**layer, "form": "tucker"} for layer in stored["layers"]]
    with pytest.raises(UnreadableMaster, match="tucker"):
        Template.from_json({**stored, "layers": layers})


@pytest.mark.parametrize("name", ["convolutional", "transformer", "tuned"])
def test_a_template_that_names_no_format_is_read_and_named_none_again(name: str) -> None:
    data = json.loads((GOLDEN / name / "template.json").read_text())
    assert "format" not in data
    template = Template.from_json(data)
    assert template.format == UNNAMED and "format" not in template.to_json()
    assert Template.from_json(json.loads(json.dumps(template.to_json()))) == template
