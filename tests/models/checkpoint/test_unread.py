"""What is refused says what to do; here it is done, and read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightrank.models.checkpoint import read
from rightrank.models.errors import UnsupportedCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(nn.Module):
    """A layer of 4 outputs, and a function of it, the module's own parts and further inputs."""

    def __init__(self, call: Callable[..., Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.layer, self.call = nn.Linear(3, 4), call
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return self.call(self, self.layer(x), *more)


def vmapped(net: Net, y: Tensor) -> Tensor:
    return torch.vmap(lambda row: row * row.sum())(y)


def summed(net: Net, y: Tensor) -> Tensor:
    """A comparison written in place into a tensor that is not of truths."""
    return (y * 1).logical_and_(y > 0) + y


def branch(net: Net, y: Tensor) -> Tensor:
    return torch.cond(y.sum() > 0, lambda a: a + 1, lambda a: a - 1, (y,))  # type: ignore[no-any-return]


def noisy(net: Net, y: Tensor) -> Tensor:
    return y + torch.randn_like(y)


def quieter(net: Net, y: Tensor) -> Tensor:
    return y + torch.randn_like(y) if net.training else y


def renormed() -> nn.Module:
    return nn.Embedding(9, 4, max_norm=1.0)


def looked_up(net: Net, y: Tensor) -> Tensor:
    return net.table((y.sigmoid() * 5).long())


class Unnormed(Net):
    """As the advice says."""

    def __init__(self) -> None:
        super().__init__(looked_up, table=renormed())
        e = self.table
        e.weight.data.renorm_(e.norm_type, 0, e.max_norm)
        e.max_norm = None


def bags(net: Net, y: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
    return y.mean() + net.bag(ids, offsets)


def rows(net: Net, y: Tensor, ids: Tensor) -> Tensor:
    return y.mean() + net.bag(ids)


def autocast(net: Net, y: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return y @ y.mT.mean(1, keepdim=True)


def complex_buffer() -> Tensor:
    return torch.polar(torch.ones(2), torch.arange(2.0))


def turned(net: Net, y: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(y.reshape(-1, 2, 2)) * net.turn)


def turned_from_pairs(net: Net, y: Tensor) -> Tensor:
    turn = torch.view_as_complex(net.turn)
    return torch.view_as_real(torch.view_as_complex(y.reshape(-1, 2, 2)) * turn)


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])

# What is refused, of which words, and the same as its advice has it.
Case = tuple[Callable[[], Net], tuple[Tensor, ...], str, Callable[[], Net], tuple[Tensor, ...]]
CASES: dict[str, Case] = {
    "noise that eval mode draws too": (
        lambda: Net(noisy),
        (),
        r"randn_like.*random.*self\.training",
        lambda: Net(quieter),
        (),
    ),
    "noise as an input": (
        lambda: Net(noisy),
        (),
        "as an input",
        lambda: Net(lambda n, y, e: y + e),
        (torch.zeros(2, 4),),
    ),
    "noise as a buffer": (
        lambda: Net(noisy),
        (),
        "as a buffer",
        lambda: Net(lambda n, y: y + n.noise, noise=nn.Buffer(torch.randn(4))),
        (),
    ),
    "a branch": (
        lambda: Net(branch),
        (),
        r"higher_order\.cond.*torch\.where",
        lambda: Net(lambda n, y: torch.where(y.sum() > 0, y + 1, y - 1)),
        (),
    ),
    "a selection": (
        lambda: Net(lambda n, y: torch.masked_select(y, y > 0).sum() + y),
        (),
        r"masked_select.*x \* mask",
        lambda: Net(lambda n, y: (y * (y > 0)).sum() + y),
        (),
    ),
    "the places of what is not zero": (
        lambda: Net(lambda n, y: y * (y > 0).nonzero().sum()),
        (),
        r"nonzero.*torch\.topk",
        lambda: Net(lambda n, y: y * y.topk(2).indices.sum()),
        (),
    ),
    "a number out of a tensor": (
        lambda: Net(lambda n, y: y * y.sum().item()),
        (),
        r"item.*without \.item\(\)",
        lambda: Net(lambda n, y: y * y.sum()),
        (),
    ),
    "an embedding that limits its norm": (
        lambda: Net(looked_up, table=renormed()),
        (),
        r"embedding_renorm_.*e\.weight\.data\.renorm_\(e\.norm_type, 0, e\.max_norm\); e\.max_norm = None",
        Unnormed,
        (),
    ),
    "bags of any length": (
        lambda: Net(bags, bag=nn.EmbeddingBag(9, 4)),
        (IDS.flatten(), torch.tensor([0, 2])),
        "as a matrix, one bag a row",
        lambda: Net(rows, bag=nn.EmbeddingBag(9, 4, padding_idx=0)),
        (IDS,),
    ),
    "a complex buffer": (
        lambda: Net(turned, turn=nn.Buffer(complex_buffer())),
        (),
        r"view_as_real.*view_as_complex",
        lambda: Net(turned_from_pairs, turn=nn.Buffer(torch.view_as_real(complex_buffer()))),
        (),
    ),
    "a complex output": (
        lambda: Net(lambda n, y: torch.fft.fft(y)),
        (),
        r"output 1 .*torch\.view_as_real",
        lambda: Net(lambda n, y: torch.view_as_real(torch.fft.fft(y))),
        (),
    ),
    "a complex number": (
        lambda: Net(lambda n, y: (y * 2j).abs()),
        (),
        r"as_complex.*torch\.complex\(a, b\)",
        lambda: Net(lambda n, y: (y * torch.complex(torch.tensor(0.0), torch.tensor(2.0))).abs()),
        (),
    ),
}
# What decomposing removes.
DECOMPOSED: dict[str, Callable[[Net, Tensor], Tensor]] = {"vmap": vmapped, "in place": summed, "autocast": autocast}


def exported(net: nn.Module, more: tuple[Tensor, ...]) -> Any:
    torch.manual_seed(0)
    return torch.export.export(net.eval().requires_grad_(False), (torch.randn(2, 3), *more))


def refusal(program: Any, path: Path) -> str:
    torch.export.save(program, path)
    with pytest.raises(UnsupportedCheckpoint) as refused:
        read(path)
    return str(refused.value).replace("\n", " ")


def exact(net: nn.Module, more: tuple[Tensor, ...], path: Path) -> bool:
    inputs = (torch.randn(2, 3), *more)
    with torch.no_grad():
        return torch.equal(read(path).run(inputs)[0], net(*inputs))


@pytest.mark.parametrize("name", CASES)
def test_the_advice_works(name: str, tmp_path: Path) -> None:
    refused, given, words, advised, more = CASES[name]
    said = refusal(exported(refused(), given), tmp_path / "refused.pt2")
    assert re.search(words, said), said
    assert "run_decompositions" not in said
    net = advised()
    torch.export.save(exported(net, more), tmp_path / "advised.pt2")
    assert exact(net, more, tmp_path / "advised.pt2")


@pytest.mark.parametrize("name", DECOMPOSED)
def test_decomposing_is_advised_where_what_it_gives_is_read(name: str, tmp_path: Path) -> None:
    net = Net(DECOMPOSED[name])
    program = exported(net, ())
    assert "run_decompositions({})" in refusal(program, tmp_path / "refused.pt2")
    torch.export.save(program.run_decompositions({}), tmp_path / "advised.pt2")
    assert exact(net, (), tmp_path / "advised.pt2")


def inverse(net: Net, y: Tensor) -> Tensor:
    return torch.linalg.inv(y[:, :, None] * y[:, None] + torch.eye(4))


@pytest.mark.parametrize("call", [inverse, lambda n, y: torch.fft.rfft(y).abs()], ids=["inverse", "transform"])
def test_what_decomposing_spoils_is_read_as_it_was_exported(call: Callable[..., Tensor], tmp_path: Path) -> None:
    net = Net(call)
    program = exported(net, ())
    assert "without .run_decompositions()" in refusal(program.run_decompositions(), tmp_path / "refused.pt2")
    torch.export.save(program, tmp_path / "advised.pt2")
    assert exact(net, (), tmp_path / "advised.pt2")


def test_training_mode_is_the_first_thing_to_look_at_where_numbers_are_random(tmp_path: Path) -> None:
    net = Net(lambda n, y: F.dropout1d(y, training=n.training))
    program = torch.export.export(net.train(), (torch.randn(2, 3),)).run_decompositions()
    assert "Call model.eval() before torch.export.export" in refusal(program, tmp_path / "refused.pt2")
    torch.export.save(exported(net, ()), tmp_path / "advised.pt2")
    assert exact(net, (), tmp_path / "advised.pt2")


def test_an_operator_of_another_library_is_named(tmp_path: Path) -> None:
    library = torch.library.Library("toyshop", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    program = exported(Net(lambda n, y: torch.ops.toyshop.twice(y)), ())
    said = refusal(program, tmp_path / "refused.pt2")
    assert "toyshop.twice.default" in said and "other functions of torch" in said
