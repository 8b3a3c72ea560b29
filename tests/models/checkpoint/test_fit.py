"""State dicts as training frameworks leave them."""

from __future__ import annotations

import re
import runpy
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from rightrank.models import architectures
from rightrank.models.checkpoint import fit, read
from rightrank.models.errors import MalformedCheckpoint, RightRankError, UnsafeCheckpoint, UnsupportedCheckpoint

ARGUMENTS = {"in_features": 6, "hidden": [4], "num_classes": 3}
SMALL = {"name": "mlp", "arguments": ARGUMENTS}
State = dict[str, Tensor]


def network() -> torch.nn.Module:
    return architectures.build("mlp", **ARGUMENTS)


@pytest.fixture
def state() -> State:
    torch.manual_seed(0)
    return dict(network().state_dict())


def behind(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def moved(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


def loaded(states: fit.States) -> tuple[State, list[str]]:
    module = network()
    notes = fit.load_into(module, states)
    return dict(module.state_dict()), notes


def same(found: State, state: State) -> bool:
    return found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


def refusal(states: fit.States) -> RightRankError:
    with pytest.raises(MalformedCheckpoint) as caught:
        loaded(states)
    return caught.value


@pytest.mark.parametrize("prefix", ["module.", "module._orig_mod.", "model.", "backbone.", "a.b.c.", "ema_model."])
def test_whatever_stands_before_all_of_the_networks_names_comes_off(prefix: str, state: State) -> None:
    assert same(loaded({(): behind(prefix, state)})[0], state)


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ({"aux.weight": torch.ones(3, 4), "aux.bias": torch.ones(3)}, "aux.weight, aux.bias"),
        ({"loss.weight": torch.ones(3)}, "loss.weight"),
        ({"n_averaged": torch.tensor(3)}, "n_averaged"),
        ({f"other{number}.weight": torch.ones(2) for number in range(7)}, "and 2 more"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_what_is_not_the_networks_is_left_out_and_told(prefix: str, others: State, told: str, state: State) -> None:
    found, notes = loaded({(): {**behind(prefix, state), **others}})
    assert same(found, state)
    assert len(notes) == 1
    assert notes[0].startswith("Left out")
    assert told in notes[0]


def test_counters_are_nothing_to_speak_of(state: State) -> None:
    counters = {"layers.0.total_ops": torch.ones(1), "layers.1.num_batches_tracked": torch.tensor(4)}
    assert loaded({(): {**state, **counters}})[1] == []


@pytest.mark.parametrize(
    "more",
    [
        {"layers.4.weight": torch.ones(3, 3), "layers.4.bias": torch.ones(3)},
        {"layers.0.running_mean": torch.ones(4)},
        {"mean": torch.ones(6)},
    ],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_name_that_the_networks_own_modules_would_have_makes_it_another_network(
    prefix: str, more: State, state: State
) -> None:
    error = refusal({(): {**behind(prefix, state), **behind(prefix, more)}})
    assert f"{prefix}{next(iter(more))}" in error.detail


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_refusal_names_one_missing_and_one_unexpected_name(prefix: str, state: State) -> None:
    """Of the unexpected ones that which has the missing one's shape: as likely as not it is the same weight."""
    state["layers.0.scale"] = state.pop("layers.0.bias")
    error = refusal({(): behind(prefix, {"layers.9.weight": torch.ones(2), **state})})
    assert f"has no {prefix}layers.0.bias;" in error.detail
    assert f"has {prefix}layers.0.scale and 1 more, which the architecture has not" in error.detail


def test_a_network_of_other_names_altogether_is_refused_by_both_names() -> None:
    error = refusal({(): {"encoder.weight": torch.ones(4, 6)}})
    assert "has no layers.0.weight and 3 more; it has encoder.weight" in error.detail


def test_a_shape_that_does_not_fit_is_named(state: State) -> None:
    wider = {**state, "layers.2.weight": torch.ones(5, 4), "layers.2.bias": torch.ones(5)}
    assert "layers.2.weight is 5×4, not 3×4 and 1 more" in refusal({(): wider}).detail


TWICE: dict[str, Callable[[State, State], dict[Any, State]]] = {
    "timm": lambda state, ema: {("state_dict",): state, ("state_dict_ema",): ema},
    "basicsr": lambda state, ema: {("params",): state, ("params_ema",): ema},
    "torchvision": lambda state, ema: {("model",): state, ("model_ema",): behind("module.", ema)},
    "lightning": lambda state, ema: {("state_dict",): {**behind("model.", state), **behind("ema.module.", ema)}},
    "teacher": lambda state, ema: {(): {**behind("student.", state), **behind("teacher.", ema)}},
    "bare": lambda state, ema: {(): {**state, **behind("ema.", ema)}},
    "in two dictionaries": lambda state, ema: {(): state, ("ema",): ema},
    "another type": lambda state, _: {(): state, ("ema",): {name: tensor.half() for name, tensor in state.items()}},
}


@pytest.mark.parametrize("form", TWICE)
def test_weights_that_are_there_twice_are_asked_about_with_lines_that_work(
    form: str, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line that the hint prints is run, and what it keeps is read: one gives the first weights, one the others."""
    states = TWICE[form](state, moved(state))
    error = refusal(states)
    assert "more than once" in error.detail
    lines = re.findall(r"^    (torch\.save\(.*\))  # .+$", error.hint, re.MULTILINE)
    assert len(lines) == 2
    monkeypatch.chdir(tmp_path)
    saved: dict[str, Any] = {}
    for keys, tensors in states.items():
        inside = saved
        for key in keys:
            inside = inside.setdefault(key, {})
        inside.update(tensors)
    kept = []
    for line in lines:
        torch.save(saved, "checkpoint.pt")
        Path("keep.py").write_text(f"import torch\n{line}\n")
        runpy.run_path("keep.py")
        kept.append(loaded({(): torch.load("weights.pt")})[0])
    assert same(kept[0], state) != same(kept[1], state)
    assert not same(kept[0], kept[1])


def test_an_average_that_has_what_the_trained_weights_lack_is_not_taken_for_them(state: State) -> None:
    """Of the trained ones half are there, say those that were not frozen."""
    half = {name: tensor for name, tensor in state.items() if name.startswith("layers.2")}
    error = refusal({(): {**behind("model.", half), **behind("ema.", moved(state))}})
    assert "more than once" in error.detail


def test_the_same_weights_twice_are_no_question(state: State) -> None:
    copies = {name: tensor.clone() for name, tensor in state.items()}
    assert same(loaded({(): {**behind("model.", state), **behind("net.", copies)}})[0], state)


def test_averages_that_are_alone_are_taken_and_told(state: State) -> None:
    found, notes = loaded({("ema",): state})
    assert same(found, state)
    assert 'in ["ema"], averages' in notes[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_keep_their_type(dtype: torch.dtype, state: State) -> None:
    given = {name: tensor.to(dtype) for name, tensor in state.items()}
    found, notes = loaded({(): given})
    assert same(found, given)
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    assert notes == []


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (torch.float16, torch.float32, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_of_several_types_one_is_taken_that_holds_all_of_them_and_told(
    one: torch.dtype, other: torch.dtype, both: torch.dtype, state: State
) -> None:
    given = {name: tensor.to(one if name.endswith("weight") else other) for name, tensor in state.items()}
    found, notes = loaded({(): given})
    assert same(found, {name: tensor.to(both) for name, tensor in given.items()})
    assert {tensor.dtype for tensor in found.values()} == {both}
    assert str(both).removeprefix("torch.") in notes[0]


def test_a_buffer_widens_the_type_where_it_would_be_rounded() -> None:
    class Normalised(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)
            self.register_buffer("mean", torch.zeros(2))

    for mean, dtype in ((torch.tensor([0.5, 0.25]), torch.float16), (torch.tensor([0.1, 0.2]), torch.float32)):
        module = Normalised()
        weights = {name: tensor.half() for name, tensor in module.layer.state_dict().items()}
        fit.load_into(module, {(): {**behind("layer.", weights), "mean": mean}})
        assert module.mean.dtype == module.layer.weight.dtype == dtype
        assert torch.equal(module.mean.float(), mean)


def test_numbers_that_are_no_weights_are_refused_by_their_type(state: State) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r"layers\.2\.weight is int8"):
        loaded({(): {**state, "layers.2.weight": torch.ones(3, 4, dtype=torch.int8)}})


def test_a_name_with_very_many_dots_is_no_more_work_than_another(state: State) -> None:
    assert same(loaded({(): {**state, "." * 5_000_000: torch.ones(2)}})[0], state)


def lightning(state: State) -> dict[str, Any]:
    """What Lightning 2.6 writes of a module with the network as `model` and a loss with weights."""
    callback = {
        "monitor": None,
        "best_model_score": torch.tensor(0.5),
        "best_model_path": "a.ckpt",
        "best_k_models": {},
    }
    loop = {"total": {"ready": 2, "completed": 2}, "current": {"ready": 2, "completed": 2}, "is_last_batch": True}
    return {
        "epoch": 0,
        "global_step": 2,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": OrderedDict({**behind("model.", state), "loss.weight": torch.ones(3)}),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_loop.batch_progress": loop}},
        "callbacks": {"ModelCheckpoint{'monitor': None, 'mode': 'min'}": callback},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(4, 6)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.01, "hidden": 64},
    }


FILES: dict[str, Callable[[State], Any]] = {
    "Lightning": lightning,
    "Lightning, weights only": lambda state: {k: v for k, v in lightning(state).items() if "optim" not in k},
    "averaged": lambda state: {"n_averaged": torch.tensor(3), **behind("module.", state)},
    "a tutorial's": lambda state: {"epoch": 3, "model_state_dict": state, "loss": torch.tensor(0.25)},
    "with plain values inside": lambda state: {**state, "epoch": 3},
    "backbone in a dictionary": lambda state: {"state_dict": behind("backbone.", state)},
    "of another order in memory": lambda state: {
        n: t.t().contiguous().t() if t.ndim == 2 else t for n, t in state.items()
    },
}


@pytest.mark.filterwarnings("ignore:Left out:UserWarning")
@pytest.mark.parametrize("form", FILES)
def test_a_trainers_file_gives_the_networks_outputs(form: str, state: State, tmp_path: Path) -> None:
    torch.save(FILES[form](state), tmp_path / "a.ckpt")
    net = network()
    net.load_state_dict(state)
    x = torch.randn(5, 6)
    with torch.no_grad():
        assert torch.equal(read(tmp_path / "a.ckpt", SMALL).run([x])[0], net(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_program_takes_and_gives_the_type_of_its_weights(dtype: torch.dtype, state: State, tmp_path: Path) -> None:
    given = {name: tensor.to(dtype) for name, tensor in state.items()}
    safetensors.torch.save_file(given, tmp_path / "a")
    program = read(tmp_path / "a", SMALL)
    net = network().to(dtype)
    net.load_state_dict(given)
    x = torch.randn(5, 6, dtype=dtype)
    assert program.graph.inputs[0].dtype == str(dtype).removeprefix("torch.")
    with torch.no_grad():
        assert torch.equal(program.run([x])[0], net(x))


def test_what_was_left_out_is_a_warning_to_who_reads_it_in_a_program(state: State, tmp_path: Path) -> None:
    torch.save({**state, "aux.weight": torch.ones(2)}, tmp_path / "a")
    with pytest.warns(UserWarning, match=r"Left out.*aux\.weight"):
        read(tmp_path / "a", SMALL)
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path / "a", SMALL, tell=told.append)
    assert len(told) == 1


def test_dictionaries_that_hold_each_other_are_read_once(state: State, tmp_path: Path) -> None:
    knot: dict[str, Any] = {"state_dict": state}
    knot["again"] = knot["more"] = knot
    torch.save(knot, tmp_path / "a")
    assert read(tmp_path / "a", SMALL).graph.nodes


@pytest.mark.parametrize("value", [{}, {"epoch": 3}, [1], {"state": {0: {"momentum": 1}}}])
def test_a_file_without_tensors_by_name_holds_no_state_dict(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "a")
    with pytest.raises(MalformedCheckpoint, match="no state dict"):
        read(tmp_path / "a", SMALL)


def test_a_program_saved_by_torch_save_is_told_which_function_to_use(tmp_path: Path) -> None:
    exported = torch.export.export(network(), (torch.zeros(2, 6),))
    torch.save(exported, tmp_path / "a")
    with pytest.raises(UnsafeCheckpoint, match=r"torch\.export\.save\(exported"):
        read(tmp_path / "a", SMALL)
