from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rightrank.models import architectures
from rightrank.models.errors import CheckpointError, MalformedCheckpoint, UnsupportedCheckpoint

SMALL: dict[str, dict[str, object]] = {
    "vgg15": {"width": 4},
    "resnet34_32": {"width": 4},
    "mlp": {"hidden": [16, 8]},
    "resnet18": {"width": 4, "image_size": 64},
    "resnet50": {"width": 4, "image_size": 64},
    "mobilenet_v2": {"width": 0.1, "image_size": 64},
    "vit": {"image_size": 32, "depth": 2, "heads": 2, "dim": 16, "mlp_dim": 32},
}


def test_every_name_is_covered_by_these_tests() -> None:
    assert set(SMALL) == set(architectures.NAMES)


@pytest.mark.parametrize("name", architectures.NAMES)
def test_an_exported_architecture_gives_the_same_outputs_at_another_batch_size(name: str) -> None:
    torch.manual_seed(0)
    module = architectures.build(name, num_classes=7, **SMALL[name])
    shape = architectures.input_shape(name, **SMALL[name])
    program = torch.export.export(module, (torch.randn(2, *shape),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    batch = torch.randn(3, *shape)
    assert torch.equal(program.module()(batch), module(batch))
    assert module(batch).shape == (3, 7)


@pytest.mark.parametrize("name", architectures.NAMES)
def test_the_modules_linear_layers_are_linear_calls_in_the_exported_graph(name: str) -> None:
    module = architectures.build(name, **SMALL[name])
    example = torch.randn(2, *architectures.input_shape(name, **SMALL[name]))
    program = torch.export.export(module, (example,))
    matrices = [p for key, p in module.named_parameters() if p.dim() == 2 and key.endswith("weight")]
    calls = [node for node in program.graph.nodes if node.target == torch.ops.aten.linear.default]
    assert len(calls) == len(matrices)


@pytest.mark.parametrize("name", architectures.NAMES)
def test_a_built_module_is_in_eval_mode(name: str) -> None:
    assert not any(part.training for part in architectures.build(name, **SMALL[name]).modules())


@pytest.mark.parametrize("name", ["resnet", "", "RESNET50", "os.system", "timm:", "timm:no_such_model", 5, ["vit"]])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        architectures.build(name)
    assert caught.value.hint


def test_a_long_unknown_name_is_not_repeated_in_full() -> None:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        architectures.build("x" * 10**6)
    assert len(caught.value.detail) < 200


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 10**9},
        {"width": 0},
        {"width": -64},
        {"width": 64.0},
        {"width": True},
        {"width": "64"},
        {"width": None},
        {"width": [64]},
        {"width": {"a": 1}},
        {"num_classes": 10**18},
        {"image_size": 10**6},
        {"image_size": 31},
        {"in_channels": 0},
        {"pretrained": True},
        {"name": "vgg15"},
        {"x" * 1000: 1},
    ],
)
def test_a_hostile_argument_is_refused_with_a_short_sentence(arguments: dict[str, object]) -> None:
    with pytest.raises(MalformedCheckpoint) as caught:
        architectures.build("vgg15", **arguments)
    assert len(caught.value.detail) < 200
    assert caught.value.hint


@pytest.mark.parametrize("width", [math.nan, math.inf, -1.0, 1e300, False, "1"])
def test_a_number_out_of_bounds_is_refused(width: object) -> None:
    with pytest.raises(MalformedCheckpoint):
        architectures.build("mobilenet_v2", width=width)


@pytest.mark.parametrize("hidden", [3, [0], [1.5], [[8]], [10**7], [8] * 65, "88", {"0": 8}])
def test_a_list_of_anything_but_a_few_integers_is_refused(hidden: object) -> None:
    with pytest.raises(MalformedCheckpoint):
        architectures.build("mlp", hidden=hidden)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vgg15", {"width": 1024}),
        ("mlp", {"in_features": 10**6, "hidden": [10**6]}),
        ("vit", {"dim": 8192, "heads": 1, "depth": 64, "mlp_dim": 32768}),
        ("resnet50", {"width": 1024}),
    ],
)
def test_arguments_each_in_bounds_that_make_too_many_weights_are_refused(
    name: str, arguments: dict[str, object]
) -> None:
    with pytest.raises(MalformedCheckpoint, match="weights"):
        architectures.build(name, **arguments)


@pytest.mark.parametrize("arguments", [{"heads": 5}, {"patch_size": 15}])
def test_arguments_that_do_not_fit_together_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(MalformedCheckpoint, match="does not divide"):
        architectures.build("vit", **arguments)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = ["num_classes", "in_channels", "in_features", "image_size", "width", "hidden", "depth", "name"]


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(architectures.NAMES) | st.text(max_size=8),
    arguments=st.dictionaries(st.sampled_from(ARGUMENTS), json, max_size=4),
)
def test_any_json_either_gives_a_shape_or_a_checkpoint_error(name: str, arguments: dict[str, object]) -> None:
    try:
        shape = architectures.input_shape(name, **arguments)
    except CheckpointError:
        return
    assert all(type(size) is int and size > 0 for size in shape)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The four functions of timm that are used, over one model called tiny with weights tagged in1k."""
    fake = ModuleType("timm")

    def create_model(name: str, *, pretrained: bool, num_classes: int, in_chans: int) -> nn.Module:
        assert name in ("tiny", "tiny.in1k")
        assert not pretrained
        return nn.Sequential(nn.Conv2d(in_chans, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, num_classes))

    fake.create_model = create_model  # type: ignore[attr-defined]
    fake.list_models = lambda: ["tiny"]  # type: ignore[attr-defined]
    fake.list_pretrained = lambda: ["tiny.in1k"]  # type: ignore[attr-defined]
    fake.get_pretrained_cfg = lambda name, allow_unregistered: SimpleNamespace(  # type: ignore[attr-defined]
        input_size=(3, 8, 8)
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    monkeypatch.delitem(sys.modules, "rightrank.models.architectures.timm_models", raising=False)
    monkeypatch.delattr(architectures, "timm_models", raising=False)
    return fake


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("name", ["timm:tiny", "timm:tiny.in1k"])
def test_a_timm_model_is_built_under_its_prefix(name: str) -> None:
    module = architectures.build(name, num_classes=5, in_channels=1)
    assert architectures.input_shape(name, in_channels=1) == (1, 8, 8)
    assert module(torch.zeros(2, 1, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module", "no module no_such_module"),
        ("raise RuntimeError('operator nms does not exist')", "cannot be imported: operator nms does not exist"),
    ],
)
def test_where_timm_is_looked_for_and_what_is_missing_there_is_said(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("timm", "rightrank.models.architectures.timm_models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(architectures, "timm_models", raising=False)
    with pytest.raises(UnsupportedCheckpoint, match=r"workers' environment") as caught:
        architectures.build("timm:resnet10t")
    assert said in caught.value.detail


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("name", ["timm:hf-hub:someone/model", "timm:local-dir:/etc", "timm:other"])
def test_a_timm_name_that_would_fetch_or_read_something_never_reaches_create_model(name: str) -> None:
    with pytest.raises(UnsupportedCheckpoint):
        architectures.build(name)
