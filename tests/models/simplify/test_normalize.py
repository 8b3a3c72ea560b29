from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightrank.models.checkpoint import read
from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.program import execute
from rightrank.models.program.graph import Graph, Input, Node, Ref, TensorMeta
from rightrank.models.program.operators import ALLOWED, IN_PLACE
from rightrank.models.simplify.normalize import normalize
from rightrank.models.simplify.normalize.binding import bind
from rightrank.models.simplify.normalize.inplace import functional_twin


class Net(nn.Module):
    """A module out of a function of it and its input."""

    def __init__(self, call: Callable[[Any, Tensor], Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.call = call
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def convolutions(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.same(x), inplace=True)
    x = net.grouped(net.strided(x))
    x = net.upwards(x)
    y = F.hardswish(x, inplace=True)
    y += x.mean()
    return torch.cat([y, y * 2], 1).view(x.size(0), -1)


def residual(net: Any, x: Tensor) -> Tensor:
    identity = x
    x = net.drop(F.relu_(net.norm(net.conv(x))))
    x += identity
    return F.relu_(x).mean((2, 3))


def attention(net: Any, x: Tensor) -> Tensor:
    n, length, width = x.shape
    q, k, v = net.qkv(x).reshape(n, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
    q *= 0.5
    y = F.scaled_dot_product_attention(q, k, v)
    return net.out(y.transpose(1, 2).reshape(n, length, width))


def mixed(net: Any, x: Tensor) -> Tensor:
    half, count = net.inner(x.half()), (x > 0).int()
    half += net.shift
    half *= x
    half.clamp_(min=net.shift)
    count += count.long() * 3
    count &= count.long() + 5
    half.addcmul_(net.shift, x)
    half += 1
    return torch.cat([net.outer(half), count.half() ** 2], 1)


def masked(net: Any, x: Tensor) -> Tensor:
    q, k, v = net.qkv(x).chunk(3, -1)
    past = torch.ones(x.size(1), x.size(1)).tril().bool()
    return (q @ k.transpose(-2, -1)).masked_fill(~past, float("-inf")).softmax(-1) @ v


def logic(net: Any, x: Tensor) -> Tensor:
    some, few = x > 0, x < 1
    both = (some & few | net.mask) ^ (few & True)
    both |= (x.long() & 3 ^ 1 | 4) > 5
    both &= net.mask
    both ^= some
    return net.out(x).masked_fill(both, 0.0)


def line(net: Any, x: Tensor) -> Tensor:
    return net.back(F.gelu(net.norm(net.conv(x)))).mean(-1)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (
        lambda: Net(
            convolutions,
            same=nn.Conv2d(3, 8, 3, padding="same"),
            strided=nn.Conv2d(8, 8, 3, groups=8, padding=1, stride=2),
            grouped=nn.Conv2d(8, 16, 1, groups=4, bias=False),
            upwards=nn.ConvTranspose2d(16, 4, 3, stride=2, output_padding=1),
        ),
        (3, 16, 16),
    ),
    "one dimension": (
        lambda: Net(
            line,
            conv=nn.Conv1d(3, 8, 5, dilation=2),
            norm=nn.BatchNorm1d(8),
            back=nn.ConvTranspose1d(8, 4, 4),
        ),
        (3, 20),
    ),
    "three dimensions": (
        lambda: nn.Sequential(
            nn.Conv3d(2, 4, 3, padding=1),
            nn.BatchNorm3d(4),
            nn.LeakyReLU(inplace=True),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
        ),
        (2, 4, 4, 4),
    ),
    "residual": (
        lambda: Net(residual, conv=nn.Conv2d(8, 8, 3, padding=1), norm=nn.BatchNorm2d(8), drop=nn.Dropout()),
        (8, 6, 6),
    ),
    "mixed": (
        lambda: Net(
            mixed, inner=nn.Linear(5, 5).half(), outer=nn.Linear(5, 3).half(), shift=nn.Buffer(torch.arange(5.0))
        ),
        (5,),
    ),
    "attention": (lambda: Net(attention, qkv=nn.Linear(16, 48), out=nn.Linear(16, 16)), (5, 16)),
    "masked": (lambda: Net(masked, qkv=nn.Linear(16, 48, bias=False)), (5, 16)),
    "logic": (lambda: Net(logic, out=nn.Linear(5, 5), mask=nn.Buffer(torch.arange(5) % 2 == 0)), (4, 5)),
    "transformer": (lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), (5, 16)),
}


def exported(module: nn.Module, example: Tensor, decomposed: bool, dynamic: bool) -> Any:
    batch = ({0: torch.export.Dim.AUTO},) if dynamic else None
    program = torch.export.export(module, (example,), dynamic_shapes=batch)
    return program.run_decompositions() if decomposed else program


def make(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, shape = NETS[name]
    module = build().requires_grad_(False)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return module, torch.randn(2, *shape)


@pytest.fixture(autouse=True)
def one_attention_kernel() -> Iterator[None]:
    """torch's fused encoder layer, which export does not record, rounds differently."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("decomposed", [False, True], ids=["as written", "decomposed"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NETS)
def test_a_program_gives_the_eval_outputs_bit_for_bit_however_it_was_exported(
    name: str, training: bool, decomposed: bool, tmp_path: Path
) -> None:
    module, example = make(name)
    # The static batch comes with the decomposed export of eval mode, so that every pair is seen with each.
    dynamic = training or not decomposed
    torch.export.save(exported(module.train(training), example, decomposed, dynamic), tmp_path / "net.pt2")
    program = read(tmp_path / "net.pt2")
    # torch itself fixes the batch of attention when it decomposes training mode.
    free = dynamic and (name, training, decomposed) != ("attention", True, True)
    assert program.graph.inputs[0].shape == (None if free else 2, *example.shape[1:])
    x = torch.cat([example, example + 1]) if free else example
    module.eval()
    # Decomposing changes the order of sums in attention, so the reference is decomposed too.
    reference = exported(module, x, decomposed, dynamic=True).module() if decomposed else module
    want = reference(x)
    assert torch.equal(program.run([x])[0], want)
    ops = {node.op for node in program.graph.nodes}
    assert not ops & IN_PLACE
    assert not any("dropout" in op or "conv2d" in op or "addmm" in op or "__" in op or "assert" in op for op in ops)


def test_attention_loses_the_dropout_of_training() -> None:
    attend = call("y", "aten.scaled_dot_product_attention.default", Ref("x"), Ref("x"), Ref("x"), None, 0.5)
    (node,) = normalize(graph_of(attend), {}, {}).nodes
    assert bind(node)["dropout_p"] == 0.0


@pytest.mark.filterwarnings("ignore")
def test_a_program_that_still_draws_random_numbers_is_refused_with_what_to_do(tmp_path: Path) -> None:
    program = exported(nn.Dropout2d().train(), torch.zeros(2, 3, 4, 4), decomposed=True, dynamic=False)
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(UnsupportedCheckpoint, match=r"bernoulli.*model\.eval\(\)"):
        read(tmp_path / "net.pt2")


def graph_of(*nodes: Node, tensors: dict[str, str] | None = None) -> Graph:
    inputs = (Input("x", "float32", (None, 4)),)
    return Graph(inputs, tensors or {}, frozenset(), nodes, (nodes[-1].outputs[0],))


def call(output: str, op: str, *args: Any) -> Node:
    return Node(output, op, args, (), (output,))


def test_every_in_place_call_has_a_functional_twin_that_torch_has_and_that_is_allowed() -> None:
    removed = {op for op in IN_PLACE if "dropout_" in op or "detach_" in op}
    for op in IN_PLACE - removed:
        twin = functional_twin(op)
        assert twin in ALLOWED
        _, name, overload = twin.split(".")
        assert getattr(getattr(torch.ops.aten, name), overload) is not None


def test_every_allowed_operator_exists() -> None:
    for op in ALLOWED:
        namespace, *rest = op.split(".")
        if namespace == "aten":
            assert getattr(getattr(torch.ops.aten, rest[0]), rest[1])._schema is not None


def test_a_change_that_a_view_of_the_tensor_would_see_is_refused() -> None:
    turned = call("v", "aten.t.default", Ref("x"))
    change = call("c", "aten.fill_.Scalar", Ref("v"), 1.0)
    with pytest.raises(UnsupportedCheckpoint, match="view"):
        normalize(graph_of(turned, change, call("y", "aten.relu.default", Ref("x"))), {}, {})
    part, same = call("v", "aten.select.int", Ref("x"), 1, 0), call("w", "aten.select.int", Ref("x"), 1, 0)
    with pytest.raises(UnsupportedCheckpoint, match="view"):
        normalize(graph_of(part, same, change, call("y", "aten.relu.default", Ref("w"))), {}, {})


def test_a_change_of_a_part_is_put_back_into_what_it_is_a_part_of_where_that_is_read_later() -> None:
    rows = call("r", "aten.slice.Tensor", Ref("x"), 0, 1)
    part = call("p", "aten.select.int", Ref("r"), 1, -1)
    change = call("c", "aten.fill_.Scalar", Ref("p"), 9.0)
    graph = normalize(graph_of(rows, part, change, call("y", "aten.add.Tensor", Ref("x"), 0)), {}, {})
    x = torch.zeros(2, 4)
    assert execute.run(graph, {}, [x])[0].tolist() == [[0.0, 0, 0, 0], [0, 0, 0, 9]]
    assert not x.any()
    alone = normalize(graph_of(rows, part, change, call("y", "aten.neg.default", Ref("c"))), {}, {})
    assert not any("scatter" in node.op for node in alone.nodes)


def test_a_change_to_one_piece_of_a_split_leaves_the_others_alone() -> None:
    split = Node("s", "aten.chunk.default", (Ref("x"), 2, 1), (), ("a", "b"), listed=True)
    change = call("c", "aten.mul_.Tensor", Ref("a"), 3.0)
    graph = normalize(graph_of(split, change, call("y", "aten.add.Tensor", Ref("a"), Ref("b"))), {}, {})
    x = torch.arange(4.0).reshape(1, 4)
    assert execute.run(graph, {}, [x])[0].tolist() == [[0 * 3 + 2, 1 * 3 + 3]]
    assert x.tolist() == [[0, 1, 2, 3]]


def test_two_changes_to_one_tensor_are_seen_by_every_later_reader() -> None:
    first = call("a", "aten.add_.Tensor", Ref("x"), 1.0)
    second = call("b", "aten.mul_.Tensor", Ref("a"), 2.0)
    graph = normalize(graph_of(first, second, call("y", "aten.add.Tensor", Ref("x"), Ref("a"))), {}, {})
    assert execute.run(graph, {}, [torch.ones(1, 4)])[0].tolist() == [[8.0] * 4]


def test_a_change_keeps_the_dtype_of_what_it_changes() -> None:
    more = call("z", "aten._to_copy.default", Ref("x"))
    change = call("c", "aten.add_.Tensor", Ref("x"), Ref("z"))
    nodes = (more, change, call("c_promoted", "aten.relu.default", Ref("x")))
    same = {"x": TensorMeta((None, 4), "float32"), "z": TensorMeta((None, 4), "float32")}
    assert [node.op for node in normalize(graph_of(*nodes), {}, same).nodes][1:] == [
        "aten.add.Tensor",
        "aten.relu.default",
    ]
    wider = normalize(graph_of(*nodes), {}, {**same, "z": TensorMeta((None, 4), "float64")})
    assert [(node.op, *node.outputs) for node in wider.nodes][1:] == [
        ("aten.add.Tensor", "c_promoted_"),
        ("aten.type_as.default", "c"),
        ("aten.relu.default", "c_promoted"),
    ]


def test_a_program_that_changes_its_own_weight_is_refused() -> None:
    nodes = (call("c", "aten.add_.Tensor", Ref("w"), 1.0), call("y", "aten.mul.Tensor", Ref("x"), Ref("c")))
    with pytest.raises(UnsupportedCheckpoint, match="own tensor"):
        normalize(graph_of(*nodes, tensors={"w": "w"}), {"w": torch.ones(4)}, {})


@pytest.mark.filterwarnings("ignore:Using padding")
def test_a_convolution_whose_padding_is_not_symmetric_keeps_its_spelling(tmp_path: Path) -> None:
    module = nn.Conv2d(3, 4, 4, padding="same").requires_grad_(False)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 8, 8),)), buffer)
    (tmp_path / "a").write_bytes(buffer.getvalue())
    program = read(tmp_path / "a")
    assert [node.op for node in program.graph.nodes] == ["aten.conv2d.padding"]


def test_uninitialised_memory_becomes_zeros_on_the_device_of_the_program() -> None:
    made = Node("e", "aten.empty.memory_format", ((2, 4),), (), ("e",))
    graph = normalize(graph_of(made, call("y", "aten.add.Tensor", Ref("x"), Ref("e"))), {}, {})
    assert graph.nodes[0].op == "aten.zeros.default"
    assert dict(graph.nodes[0].kwargs)["device"] is not None


def test_results_that_nobody_reads_lose_their_name_and_calls_that_nobody_reads_go() -> None:
    top = Node("t", "aten.max.dim", (Ref("x"), 1), (), ("v", "i"))
    graph = normalize(
        graph_of(top, call("z", "aten.neg.default", Ref("x")), call("y", "aten.neg.default", Ref("v"))),
        {},
        {},
    )
    assert [(node.op, node.outputs) for node in graph.nodes] == [
        ("aten.max.dim", ("v", "")),
        ("aten.neg.default", ("y",)),
    ]


def test_bind_fills_in_what_a_call_leaves_out() -> None:
    assert bind(call("y", "aten.add.Tensor", Ref("x"), Ref("x")))["alpha"] == 1


def test_an_instance_norm_that_keeps_statistics_uses_them(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, track_running_stats=True))
    x = torch.randn(4, 3, 9, 9) + 1
    module(x)
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(module.train(), (x,), dynamic_shapes=dynamic), tmp_path / "m.pt2")
    program = read(tmp_path / "m.pt2")
    with torch.no_grad():
        assert torch.equal(program.run([x])[0], module.eval()(x))
