from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.checkpoint import Limits, read
from rightrank.models.errors import UnsafeCheckpoint, UnsupportedCheckpoint
from rightrank.models.program.graph import Graph
from rightrank.models.program.program import Program
from tests.hostile import corpus


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.out = nn.Linear(4, 9, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("scale", torch.arange(8.0).reshape(2, 4)[1])

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.embed(x) * self.scale)
        return logits


class Pair(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"sum": a + b, "first": a}


# torch warns when it saves a weight that is a view; that it does is what two of these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:No complete tensor")


def saved(module: nn.Module, inputs: tuple[Any, ...], path: Path, shapes: Any = None, **options: Any) -> Path:
    torch.export.save(torch.export.export(module.eval(), inputs, dynamic_shapes=shapes), path, **options)
    return path


def same(module: nn.Module, inputs: tuple[Tensor, ...], program: Program) -> bool:
    with torch.no_grad():
        want = module(*inputs)
        got = program.run(inputs)
    wanted = list(want.values()) if isinstance(want, dict) else [want]
    return all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))


def test_tied_weights_are_one_tensor_under_two_value_names(tmp_path: Path) -> None:
    module = Tied().requires_grad_(False)
    x = torch.tensor([[1, 2, 3], [4, 5, 6]])
    program = read(saved(module, (x,), tmp_path / "a.pt2"))
    assert program.graph.inputs[0].dtype == "int64"
    assert sorted(program.tensors) == ["embed.weight", "scale"]
    assert program.graph.parameters == {"embed.weight"}
    assert same(module, (x,), program)


def test_several_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    inputs = (torch.randn(2, 3), torch.randn(2, 3))
    batch = torch.export.Dim("batch")
    program = read(saved(Pair(), inputs, tmp_path / "a.pt2", ({0: batch}, {0: batch})))
    assert [spec.shape for spec in program.graph.inputs] == [(None, 3), (None, 3)]
    assert same(Pair(), inputs, program)


class Returning(nn.Module):
    """A linear layer, and beside its outputs whatever `more` makes of the input."""

    def __init__(self, more: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.more = nn.Linear(3, 2), more

    def forward(self, x: Tensor) -> Any:
        return self.more(x), self.linear(x), None


def test_an_output_that_is_none_is_left_out(tmp_path: Path) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.attention(x, x, x, need_weights=False)

    module, x = Attention().eval().requires_grad_(False), torch.randn(2, 5, 8)
    program = read(saved(module, (x,), tmp_path / "a.pt2"))
    (found,) = program.run([x])
    assert torch.allclose(found, module(x)[0], atol=1e-6)
    program = read(saved(Returning(lambda x: None), (torch.zeros(2, 3),), tmp_path / "b.pt2"))
    assert len(program.graph.outputs) == 1


@pytest.mark.parametrize("more", [lambda x: 3.0, lambda x: x.shape[0], lambda x: True], ids=["float", "size", "bool"])
def test_an_output_that_is_a_number_is_refused_by_its_place(more: Callable[[Tensor], Any], tmp_path: Path) -> None:
    batch = ({0: torch.export.Dim("batch")},)
    path = saved(Returning(lambda x: (x, more(x))), (torch.zeros(2, 3),), tmp_path / "a.pt2", batch)
    with pytest.raises(UnsupportedCheckpoint, match=r"output 2 is a plain number .* returns only tensors"):
        read(path)


class Selecting(nn.Module):
    """The columns of a linear layer's outputs that a mask names."""

    def __init__(self, mask: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.mask = nn.Linear(3, 4), mask

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)[:, self.mask(x)]


def test_a_mask_that_is_a_constant_selects_and_what_its_assertions_would_say_is_left_behind(tmp_path: Path) -> None:
    module = Selecting(lambda x: torch.tensor([True, False, True, True])).requires_grad_(False)
    x = torch.randn(2, 3)
    path = saved(module, (x,), tmp_path / "a.pt2", ({0: torch.export.Dim("batch")},))
    assert b"expression u0 >= 0 on node 'ge'" in path.read_bytes()
    program = read(path)
    assert same(module, (x,), program)
    assert program.shapes[program.graph.outputs[0]] == (2, 3)
    assert "u0" not in json.dumps(program.graph.to_json())


def test_a_mask_that_is_computed_is_refused_with_what_to_do_instead(tmp_path: Path) -> None:
    path = saved(Selecting(lambda x: x.new_ones(4) > x.sum()), (torch.zeros(2, 3),), tmp_path / "a.pt2")
    with pytest.raises(UnsupportedCheckpoint, match=r"mask that it computes.*torch\.where"):
        read(path)


def test_a_batch_that_was_fixed_stays_fixed(tmp_path: Path) -> None:
    program = read(saved(nn.Linear(3, 2), (torch.zeros(4, 3),), tmp_path / "a.pt2"))
    assert program.graph.inputs[0].shape == (4, 3)


def test_a_batch_that_may_be_only_a_multiple_is_refused_with_what_to_export(tmp_path: Path) -> None:
    class Fours(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(x.shape[0] // 4, 4, 3).sum(1)

    path = saved(Fours(), (torch.zeros(8, 3),), tmp_path / "a.pt2", ({0: 4 * torch.export.Dim("batch")},))
    with pytest.raises(UnsupportedCheckpoint, match=r"only some batch sizes of x.*Dim\(\"batch\"\)"):
        read(path)


def test_a_free_length_stays_free_and_has_the_exports_for_an_example(tmp_path: Path) -> None:
    free = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("width")},)
    module = nn.Conv1d(3, 2, 1)
    program = read(saved(module, (torch.zeros(2, 3, 8),), tmp_path / "a.pt2", free))
    assert program.graph.inputs[0].shape == (None, 3, None)
    assert program.shapes[program.graph.outputs[0]] == (2, 2, 8)
    assert Graph.from_json(program.graph.to_json()) == program.graph
    for shape in ((1, 3, 5), (4, 3, 11)):
        assert same(module, (torch.randn(shape),), program)


class Pooled(nn.Module):
    """Its sizes are multiples, and its paddings depend on them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        small = nn.functional.max_pool2d(x, 4)
        return self.last(torch.cat([x, nn.functional.interpolate(small, size=x.shape[-2:])], 1))


def test_free_heights_and_widths_may_be_multiples(tmp_path: Path) -> None:
    height, width = (torch.export.Dim(name, min=1, max=64) for name in ("height", "width"))
    free = ({0: torch.export.Dim("batch"), 2: 4 * height, 3: 4 * width},)
    module = Pooled().eval()
    program = read(saved(module, (torch.zeros(2, 3, 8, 16),), tmp_path / "a.pt2", free))
    assert program.graph.inputs[0].shape == (None, 3, None, None)
    assert same(module, (torch.randn(3, 3, 12, 20),), program)


@pytest.mark.parametrize("hint", [None, {"as_int": 0}, {"as_int": 1 << 40}, {"as_int": "8"}, {"as_float": 8.0}])
def test_a_free_size_without_a_usable_example_is_refused(hint: object, tmp_path: Path) -> None:
    free = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("width")},)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(nn.Conv1d(3, 2, 1), (torch.zeros(2, 3, 8),), dynamic_shapes=free), buffer)

    def change(program: dict[str, Any]) -> None:
        name = program["graph_module"]["signature"]["input_specs"][-1]["user_input"]["arg"]["as_tensor"]["name"]
        program["graph_module"]["graph"]["tensor_values"][name]["sizes"][2]["as_expr"]["hint"] = hint

    (tmp_path / "a").write_bytes(corpus.edited(corpus.entries(buffer.getvalue()), corpus.GRAPH, change))
    with pytest.raises(UnsupportedCheckpoint, match="dimension 2"):
        read(tmp_path / "a")


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, scale: Tensor | None = None, flag: bool = False, times: float = 1
    ) -> Tensor:
        x = self.first(x) if mask is None else self.first(x) * mask
        return self.last(torch.relu(x) if flag else x * times)


def test_arguments_that_the_export_fixed_are_none_of_the_files(tmp_path: Path) -> None:
    module, x, scale = Optional().eval(), torch.randn(2, 3), torch.ones(())
    given = {"mask": None, "scale": scale, "flag": True, "times": 0.5}
    path = tmp_path / "a.pt2"
    torch.export.save(torch.export.export(module, (x,), given), path)
    program = read(path)
    assert [spec.name for spec in program.graph.inputs] == ["x", "scale"]
    with torch.no_grad():
        assert torch.equal(program.run([x, scale])[0], module(x, **given))


def test_an_input_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, factor: int) -> Tensor:
            return x * factor

    with pytest.raises(UnsupportedCheckpoint, match="input that is not a tensor"):
        read(saved(Scaled(), (torch.zeros(2), 3), tmp_path / "a.pt2", (None, torch.export.Dim.DYNAMIC)))


def test_control_flow_is_refused_by_name(tmp_path: Path) -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))  # type: ignore[no-any-return]

    with pytest.raises(UnsupportedCheckpoint, match=r"higher_order\.cond|as_graph"):
        read(saved(Branch(), (torch.zeros(2),), tmp_path / "a.pt2"))


def test_a_network_that_counts_its_calls_is_refused(tmp_path: Path) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.add_(1)
            return x * self.calls

    with pytest.raises(UnsupportedCheckpoint):
        read(saved(Counter(), (torch.zeros(2),), tmp_path / "a.pt2"))


def test_files_that_the_publisher_added_are_ignored(tmp_path: Path) -> None:
    path = saved(nn.Linear(3, 2), (torch.zeros(4, 3),), tmp_path / "a.pt2", extra_files={"labels.txt": "cat dog"})
    assert read(path).graph.nodes


def test_more_tensors_than_the_limit_are_unsafe(tmp_path: Path) -> None:
    path = saved(nn.Sequential(*(nn.Linear(2, 2) for _ in range(3))), (torch.zeros(1, 2),), tmp_path / "a.pt2")
    with pytest.raises(UnsafeCheckpoint, match="at most 5"):
        read(path, limits=Limits(tensors=5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_type(dtype: torch.dtype, tmp_path: Path) -> None:
    module = nn.Linear(3, 2).to(dtype).requires_grad_(False)
    x = torch.randn(2, 3).to(dtype)
    program = read(saved(module, (x,), tmp_path / "a.pt2"))
    assert {tensor.dtype for tensor in program.tensors.values()} == {dtype}
    assert same(module, (x,), program)


def test_weights_that_lie_the_other_way_round_are_stored_as_they_lie(tmp_path: Path) -> None:
    module = nn.Linear(3, 4, bias=False)
    module.weight = nn.Parameter(torch.randn(3, 4).t(), requires_grad=False)
    x = torch.randn(2, 3)
    program = read(saved(module, (x,), tmp_path / "a.pt2"))
    assert program.tensors["weight"].is_contiguous()
    assert torch.equal(program.tensors["weight"], module.weight.t())
    assert same(module, (x,), program)


class Observer(nn.Module):
    """It keeps a mean of what it has seen, by the name that a norm's has."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("running_mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.running_mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.linear(x - self.running_mean)


# torch warns of itself when it decomposes a program that changes a buffer.
@pytest.mark.filterwarnings("ignore:.*LeafSpec")
@pytest.mark.parametrize("decomposed", [False, True])
def test_a_state_is_refused_whatever_it_is_called(decomposed: bool, tmp_path: Path) -> None:
    program = torch.export.export(Observer(), (torch.randn(4, 8),))
    torch.export.save(program.run_decompositions() if decomposed else program, tmp_path / "m.pt2")
    with pytest.raises(UnsupportedCheckpoint, match="changes its own"):
        read(tmp_path / "m.pt2")


class Tabled(nn.Module):
    """Truths looked up, by tokens and by constants."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(6, 8), nn.Linear(8, 8)
        self.register_buffer("allowed", torch.tensor([True, False, True, True, False, True]))
        self.register_buffer("order", torch.tensor([3, 1, 4, 1, 5, 0, 2, 0]))

    def forward(self, tokens: Tensor) -> Tensor:
        seen = self.linear(self.embed(tokens)) * self.allowed[self.order]
        return seen * self.allowed[tokens].unsqueeze(-1)


def test_a_table_of_truths_is_read_like_any_other(tmp_path: Path) -> None:
    module, tokens = Tabled().eval(), torch.randint(0, 6, (4, 7))
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(module, (tokens,), dynamic_shapes=dynamic), tmp_path / "m.pt2")
    program = read(tmp_path / "m.pt2")
    with torch.no_grad():
        assert torch.equal(program.run([tokens])[0], module(tokens))


@pytest.mark.parametrize("major", [0, 7, 9])
def test_another_major_version_of_torchs_schema_is_refused_with_the_torch_to_use(major: int, tmp_path: Path) -> None:
    def edit(program: Any) -> None:
        assert program["schema_version"]["major"] == 8
        program["schema_version"]["major"] = major

    path = tmp_path / "m.pt2"
    path.write_bytes(corpus.edited(corpus.entries(corpus.honest()), corpus.GRAPH, edit))
    with pytest.raises(UnsupportedCheckpoint, match=rf"version {major} of.*version 8 is read.*torch 2\.6 to 2\.13"):
        read(path)


def test_a_minor_version_of_torchs_schema_does_not_matter(tmp_path: Path) -> None:
    def edit(program: Any) -> None:
        program["schema_version"]["minor"] = 99

    path = tmp_path / "m.pt2"
    path.write_bytes(corpus.edited(corpus.entries(corpus.honest()), corpus.GRAPH, edit))
    assert read(path).graph.nodes
