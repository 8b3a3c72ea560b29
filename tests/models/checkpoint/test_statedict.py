from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from rightrank.models import architectures
from rightrank.models.checkpoint import read
from rightrank.models.errors import MalformedCheckpoint, UnsupportedCheckpoint

SMALL = {"name": "mlp", "arguments": {"in_features": 6, "hidden": [4], "num_classes": 3}}


def module() -> torch.nn.Module:
    torch.manual_seed(0)
    return architectures.build("mlp", in_features=6, hidden=[4], num_classes=3).eval().requires_grad_(False)


def save(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def outputs(path: Path, x: Tensor) -> Tensor:
    return read(path, SMALL).run([x])[0]


@pytest.mark.filterwarnings("ignore:Left out:UserWarning")
@pytest.mark.parametrize("form", ["plain", "wrapped", "beside a tensor", "parallel", "compiled", "parameters"])
def test_a_state_dict_gives_the_modules_outputs_however_training_wrapped_it(form: str, tmp_path: Path) -> None:
    net = module()
    state: dict[str, Any] = dict(net.state_dict())
    shapes = {
        "plain": state,
        "wrapped": {"epoch": 3, "lr": 0.1, "state_dict": state, "optimizer": {"state": {}, "groups": [None]}},
        "beside a tensor": {"best": torch.tensor(71.2), "epoch": 3, "state_dict": state},
        "parallel": {f"module.{name}": value for name, value in state.items()},
        "compiled": {f"_orig_mod.module.{name}": value for name, value in state.items()},
        "parameters": {name: torch.nn.Parameter(value) for name, value in state.items()},
    }
    x = torch.randn(5, 6)
    assert torch.equal(outputs(save(shapes[form], tmp_path / "a.anything"), x), net(x))


def test_safetensors_give_the_modules_outputs(tmp_path: Path) -> None:
    net = module()
    safetensors.torch.save_file(net.state_dict(), tmp_path / "a", metadata={"format": "pt"})
    x = torch.randn(5, 6)
    assert torch.equal(outputs(tmp_path / "a", x), net(x))


def test_weights_without_an_architecture_are_refused_with_the_names_of_some(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="resnet18"):
        read(save(module().state_dict(), tmp_path / "a"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("layers.0.bias"), r"has no layers\.0\.bias"),
        (lambda state: state.update(extra=torch.ones(2)), "it has extra"),
        (lambda state: state.update({"layers.0.bias": torch.ones(5)}), r"layers\.0\.bias is 5, not 4"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: Any, said: str, tmp_path: Path) -> None:
    state = dict(module().state_dict())
    change(state)
    with pytest.raises(MalformedCheckpoint, match=said):
        read(save(state, tmp_path / "a"), SMALL)


@pytest.mark.parametrize("architecture", [{}, {"name": 5}, {"name": "mlp", "arguments": []}, {"name": "mlp", "x": 1}])
def test_an_architecture_that_is_not_a_name_with_arguments_is_malformed(architecture: Any, tmp_path: Path) -> None:
    with pytest.raises(MalformedCheckpoint, match="not a name with arguments"):
        read(save(module().state_dict(), tmp_path / "a"), architecture)


def test_a_pickled_module_is_refused_with_the_lines_that_export_it(tmp_path: Path) -> None:
    from rightrank.models.errors import UnsafeCheckpoint

    with pytest.raises(UnsafeCheckpoint, match=r"torch\.export\.save"):
        read(save(module(), tmp_path / "a"), SMALL)
