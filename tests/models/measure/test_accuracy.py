from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rightrank.models.errors import DataError
from rightrank.models.measure.accuracy import Measurement, measure


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """A file that returns its inputs as the scores of four classes."""
    return identity_of(tmp_path, (4,))


def identity_of(folder: Path, shape: tuple[int, ...]) -> Path:
    """A file that returns its inputs, each of a shape."""
    path = folder / "identity.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.zeros(2, *shape)), path)
    return path


def data(folder: Path, inputs: torch.Tensor, targets: torch.Tensor | None = None) -> Path:
    path = folder / "data.safetensors"
    save_file({"inputs": inputs, **({} if targets is None else {"targets": targets})}, path)
    return path


def test_top1_is_the_share_of_right_answers(identity: Path, tmp_path: Path) -> None:
    result = measure(identity, data(tmp_path, torch.eye(4), torch.tensor([0, 1, 2, 0])))
    assert (result.metric, result.value, result.n) == ("top1", 0.75, 4)
    assert 0 < result.low < 0.75 < result.high < 1


def test_the_interval_is_wilsons(identity: Path, tmp_path: Path) -> None:
    result = measure(identity, data(tmp_path, torch.eye(4).repeat(25, 1), torch.zeros(100, dtype=torch.int64)))
    assert result.low == pytest.approx(0.17545, abs=1e-4) and result.high == pytest.approx(0.34304, abs=1e-4)


def test_top5_of_four_classes_is_always_right(identity: Path, tmp_path: Path) -> None:
    assert measure(identity, data(tmp_path, torch.eye(4), torch.tensor([3, 3, 3, 3])), metric="top5").value == 1


def test_numbers_as_targets_are_measured_by_their_squared_error(identity: Path, tmp_path: Path) -> None:
    result = measure(identity, data(tmp_path, torch.zeros(3, 4), torch.full((3, 4), 2.0)))
    assert (result.metric, result.value) == ("mse", 4.0)


def test_without_targets_the_original_is_the_judge(identity: Path, tmp_path: Path) -> None:
    result = measure(identity, data(tmp_path, torch.eye(4)), original=identity)
    assert (result.metric, result.value) == ("agreement", 1.0)


@pytest.mark.parametrize("targets", [[0, 1, 2, 4], [0, 1, 2, -1]])
def test_a_class_that_the_model_does_not_have_is_refused(identity: Path, tmp_path: Path, targets: list[int]) -> None:
    with pytest.raises(DataError, match="4 classes"):
        measure(identity, data(tmp_path, torch.eye(4), torch.tensor(targets)))


class Root(torch.nn.Module):
    """The roots of its inputs: NaN where they are below zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sqrt()


class Exported(torch.nn.Module):
    """Its inputs as scores, as a program exported for `batch` rows gives them: the size is in its code."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(self.batch, -1)[:, :4]


@pytest.fixture
def in_twos(tmp_path: Path) -> Path:
    path = tmp_path / "twos.pt"
    torch.jit.script(Exported(2)).save(str(path))
    return path


@pytest.mark.parametrize("n", [1, 2, 5, 300])
def test_a_program_for_one_batch_size_is_measured_at_that(in_twos: Path, tmp_path: Path, n: int) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(n, 4)
    targets = inputs.argmax(1)
    targets[0] = (targets[0] + 1) % 4
    result = measure(in_twos, data(tmp_path, inputs, targets), batch=2)
    assert result.n == n and result.value == pytest.approx((n - 1) / n)
    assert measure(in_twos, data(tmp_path, inputs, inputs + 2), batch=2).value == pytest.approx(4)
    assert measure(in_twos, data(tmp_path, inputs), original=in_twos, batch=2).n == n


@pytest.mark.parametrize("targets", [torch.zeros(6, dtype=torch.int64), torch.zeros(6, 4), None])
@pytest.mark.parametrize("batch", [1, 2])
def test_outputs_without_a_row_for_each_input_are_refused(
    tmp_path: Path, targets: torch.Tensor | None, batch: int
) -> None:
    """One row would be compared with every target, without a word from torch."""
    path = tmp_path / "fixed.pt"
    torch.jit.script(Exported(batch)).save(str(path))
    with pytest.raises(DataError, match="a row for each of 6 inputs") as refused:
        measure(path, data(tmp_path, torch.randn(6, 4), targets), original=path)
    assert refused.value.hint


def test_inputs_that_the_program_does_not_take_are_refused_at_its_own_batch_size(tmp_path: Path) -> None:
    path = tmp_path / "linear.pt"
    torch.jit.script(torch.nn.Linear(5, 4)).save(str(path))
    with pytest.raises(DataError, match=r"of shape \(2, 4\)"):
        measure(path, data(tmp_path, torch.eye(4), torch.arange(4)), batch=2)


def test_an_output_that_holds_nothing_has_no_answers(tmp_path: Path) -> None:
    path = identity_of(tmp_path, (0,))
    with pytest.raises(DataError, match="holds nothing"):
        measure(path, data(tmp_path, torch.randn(6, 0)), original=path)


@pytest.mark.parametrize("shape", [(1,), (), (2, 2)])
def test_class_indices_beyond_one_column_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path, inputs = identity_of(tmp_path, shape), torch.randn(6, *shape)
    with pytest.raises(DataError) as refused:
        measure(path, data(tmp_path, inputs, torch.arange(6)))
    assert refused.value.hint


@pytest.mark.parametrize("shape", [(1,), (), (2, 2), (3, 4, 4)])
def test_without_targets_answers_of_any_shape_are_held_against_the_originals(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path, inputs = identity_of(tmp_path, shape), torch.randn(6, *shape)
    assert measure(path, data(tmp_path, inputs), original=path).value == 1


@pytest.mark.parametrize("shape", [(1,), (), (2, 2)])
def test_such_an_output_is_measured_by_its_squared_error(tmp_path: Path, shape: tuple[int, ...]) -> None:
    inputs = torch.randn(6, *shape)
    assert measure(identity_of(tmp_path, shape), data(tmp_path, inputs, inputs + 2)).value == pytest.approx(4)


NOWHERE = torch.tensor([[math.nan, 0, 0, 0], [0, math.inf, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("metric", ["top1", "top5"])
def test_outputs_that_are_not_finite_are_wrong_whatever_was_to_come(
    identity: Path, tmp_path: Path, metric: str
) -> None:
    assert measure(identity, data(tmp_path, NOWHERE, torch.arange(4)), metric=metric).value == 0.5


def test_outputs_that_are_not_finite_agree_with_nothing(identity: Path, tmp_path: Path) -> None:
    path = tmp_path / "root.pt"
    torch.jit.script(Root()).save(str(path))
    assert measure(path, data(tmp_path, torch.diag(torch.tensor([1.0, 1, 1, -1]))), original=identity).value == 0.75


@pytest.mark.parametrize("targets", [torch.arange(4), torch.zeros(4, 4), None])
def test_an_original_whose_outputs_are_not_finite_is_refused(
    identity: Path, tmp_path: Path, targets: torch.Tensor | None
) -> None:
    inputs = torch.eye(4)
    inputs[2, 1] = math.nan
    with pytest.raises(DataError, match="input 2, counted from 0, is NaN or infinite") as refused:
        measure(identity, data(tmp_path, inputs, targets), keep=tmp_path / "kept.safetensors")
    assert refused.value.hint


def test_a_class_that_an_original_rules_out_is_no_fault(identity: Path, tmp_path: Path) -> None:
    inputs = torch.eye(4)
    inputs[:3, 3] = -math.inf
    assert measure(identity, data(tmp_path, inputs, torch.arange(4)), keep=tmp_path / "kept.safetensors").value == 1
    assert measure(identity, data(tmp_path, inputs), keep=tmp_path / "kept.safetensors").value == 1


def test_one_sample_has_a_squared_error_and_no_interval(identity: Path, tmp_path: Path) -> None:
    result = measure(identity, data(tmp_path, torch.zeros(1, 4), torch.full((1, 4), 2.0)))
    assert (result.value, result.n, result.low, result.high) == (4, 1, None, None)
    assert Measurement.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result


def test_a_measurement_survives_json(identity: Path, tmp_path: Path) -> None:
    result = measure(identity, data(tmp_path, torch.eye(4), torch.tensor([0, 1, 2, 0])))
    assert Measurement.from_json(result.to_json()) == result


def test_progress_may_stop_a_measurement(identity: Path, tmp_path: Path) -> None:
    def stop(phase: str, completed: int, total: int, unit: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(identity, data(tmp_path, torch.eye(4), torch.tensor([0, 1, 2, 0])), progress=stop)


class Wide(torch.nn.Module):
    """Scores that are far larger than what they are computed from."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat(1, 50) * torch.arange(200.0)


@pytest.mark.parametrize("metric", ["top1", "top5", "f1", "agreement", "divergence", "cosine", "overlap", "perplexity"])
def test_what_is_kept_of_the_original_stands_for_its_file(identity: Path, tmp_path: Path, metric: str) -> None:
    torch.manual_seed(0)
    other, kept, inputs = tmp_path / "other.pt", tmp_path / "kept.safetensors", torch.randn(300, 4)
    torch.jit.save(torch.jit.trace(torch.nn.Linear(4, 4), inputs), other)
    given = data(tmp_path, inputs, torch.arange(300) % 4)
    first = measure(identity, given, metric=metric, keep=kept)
    assert first.changed is None and first.n == 300
    by_file = measure(other, given, metric=metric, original=identity)
    assert measure(other, given, metric=metric, reference=kept) == by_file
    if by_file.changed is not None:
        # Of four classes all are among the five best, whatever their scores.
        assert by_file.changed["answers"] == 300 and (by_file.changed["differ"] > 0) == (metric != "top5")


def test_what_is_larger_than_the_data_is_not_kept(tmp_path: Path) -> None:
    path, kept = tmp_path / "wide.pt", tmp_path / "kept.safetensors"
    torch.jit.script(Wide()).save(str(path))
    given = data(tmp_path, torch.randn(40, 4))
    measure(path, given, metric="divergence", keep=kept)
    assert not kept.exists()
    measure(path, given, metric="agreement", keep=kept)
    assert kept.exists()


def test_a_share_says_of_how_many_answers_it_is(identity: Path, tmp_path: Path) -> None:
    result = measure(identity, data(tmp_path, torch.eye(4), torch.tensor([0, 1, 0, -100])))
    assert (result.value, result.n, result.counted) == (2 / 3, 4, {"answers": 3, "most": 1})
    assert measure(identity, data(tmp_path, torch.eye(4)), original=identity).counted == {"answers": 4, "most": 1}
    labels = torch.eye(4).long()
    labels[0, 1] = 1
    assert measure(identity, data(tmp_path, torch.eye(4), labels)).counted == {"answers": 16, "most": 4}
    assert measure(identity, data(tmp_path, torch.eye(4), torch.full((4, 4), 2.0))).counted is None
    pixels = identity_of(tmp_path, (3, 2, 5))
    targets = torch.zeros(6, 2, 5, dtype=torch.int64)
    targets[0] = -100
    found = measure(pixels, data(tmp_path, torch.ones(6, 3, 2, 5), targets))
    assert (found.value, found.counted) == (1.0, {"answers": 50, "most": 10})
    assert Measurement.from_json(json.loads(json.dumps(found.to_json()))) == found
    older = {key: value for key, value in found.to_json().items() if key != "counted"}
    assert Measurement.from_json(older).counted is None


class Shrunk(torch.nn.Module):
    """A cut whose logits happen to lie between 0 and 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs() / 10


@pytest.mark.parametrize("kept", [False, True])
def test_whether_a_cuts_scores_are_logits_is_told_by_the_original(identity: Path, tmp_path: Path, kept: bool) -> None:
    inputs = torch.tensor([[-3.0], [-1.0], [1.0], [2.0], [4.0]])
    evaluation = data(tmp_path, inputs, (inputs > 0).long())
    cut, reference = tmp_path / "cut.pt", tmp_path / "reference"
    torch.jit.save(torch.jit.trace(Shrunk(), inputs), cut)
    alone = measure(cut, evaluation, metric="accuracy")
    assert alone.value == 0.4  # held against a half, as probabilities would be
    measure(identity, evaluation, metric="accuracy", keep=reference)
    how = {"reference": reference} if kept else {"original": identity}
    found = measure(cut, evaluation, metric="accuracy", **how)
    assert found.value == 0.6  # every answer is a yes
    assert found.changed == {"answers": 5, "differ": 2, "share": 0.4, "lost": 2, "gained": 0}
