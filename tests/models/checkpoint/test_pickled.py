"""Files that other versions of torch wrote, and the advice on how to write one."""

from __future__ import annotations

import io
import re
import runpy
import textwrap
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.checkpoint import Limits, advice, pickled, read
from rightrank.models.checkpoint.archive import Archive
from rightrank.models.errors import CheckpointError, MalformedCheckpoint, UnsafeCheckpoint, UnsupportedCheckpoint
from tests.hostile import corpus
from tests.models.checkpoint.written.make import Net

WRITTEN = sorted((Path(__file__).parent / "written").glob("torch-*.pt2"))


def outputs(path: Path, x: Tensor) -> Tensor:
    return read(path).run([x])[0]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_a_program_of_another_torch_gives_the_networks_outputs(path: Path) -> None:
    net = Net().eval()
    for batch in (1, 2, 5):
        x = torch.randn(batch, 2, 4, 4, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            assert torch.allclose(outputs(path, x), net(x), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_its_tensors_are_the_networks_to_the_bit_and_a_shared_one_is_there_once(path: Path) -> None:
    program, net = read(path), Net().eval()
    own = {**net.state_dict(), "turned": net.turned}
    assert {"tied.weight", "again.weight"} & set(program.tensors) in ({"tied.weight"}, {"again.weight"})
    for name, tensor in program.tensors.items():
        assert tensor.is_contiguous()
        assert torch.equal(tensor, own.get(name, torch.tensor([0.5, 1.0, 2.0, 4.0])))
    assert "last.weight" in program.graph.parameters
    assert "turned" not in program.graph.parameters


@pytest.mark.parametrize("flat", [False, True])
def test_both_older_layouts_are_read_without_opening_example_inputs(flat: bool, tmp_path: Path) -> None:
    """Of the same program, with a payload where the examples are: all that it says is in the graph and the tensors."""
    canary = tmp_path / "canary"
    evil = io.BytesIO()
    torch.save(corpus.Touch(canary), evil)
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_bytes(corpus.honest())
    old.write_bytes(corpus.pack(corpus.older(corpus.honest(), flat, examples=evil.getvalue())))
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(outputs(old, x), outputs(new, x))
    assert not canary.exists()


def archived(value: object) -> Archive:
    inner, outer = io.BytesIO(), io.BytesIO()
    torch.save(value, inner)
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("a.pt", inner.getvalue())
        archive.writestr("empty.pt", b"")
        archive.writestr("other", b"")
    return Archive(outer, 10)


def test_a_dictionary_of_tensors_is_read_with_what_they_share() -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    found = pickled.read(
        archived({"a": nn.Parameter(weight), "b": weight, "row": weight[1], "mask": torch.tensor([True, False])}),
        "a.pt",
        Limits(),
    )
    assert torch.equal(found["a"], weight)
    assert not found["a"].requires_grad
    assert found["mask"].tolist() == [True, False]
    places = pickled.places(found)
    assert places["a"] == places["b"] != places["row"]
    row = pickled.contiguous(found["row"])
    assert torch.equal(row, weight[1])
    assert row.untyped_storage().nbytes() == 16


@pytest.mark.parametrize("value", [{}, torch.nn.Linear(1, 1).state_dict()])
def test_no_bytes_and_no_tensors_are_no_constants(value: object) -> None:
    assert pickled.read(archived(value), "empty.pt", Limits()) == {}
    assert len(pickled.read(archived(value), "a.pt", Limits())) == len(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([torch.ones(1)], UnsupportedCheckpoint),
        ({"a": {"b": torch.ones(1)}}, UnsupportedCheckpoint),
        ({"a": 1}, UnsupportedCheckpoint),
        ({1: torch.ones(1)}, UnsupportedCheckpoint),
        ({"a": torch.ones([1] * 9)}, UnsupportedCheckpoint),
        ({"a": torch.ones(1).to_sparse()}, UnsafeCheckpoint),
        ({"a": torch.ones(1).expand(1 << 30)}, UnsafeCheckpoint),
        ({"a": nn.Linear(1, 1)}, UnsafeCheckpoint),
    ],
)
def test_anything_else_is_refused_by_the_entrys_name(value: object, error: type[CheckpointError]) -> None:
    with pytest.raises(error, match=r"(?s)The archive's a\.pt: .*torch\.export\.save"):
        pickled.read(archived(value), "a.pt", Limits())


def test_more_tensors_than_allowed_are_refused() -> None:
    with pytest.raises(UnsafeCheckpoint, match="at most 2"):
        pickled.read(archived({str(i): torch.ones(1) for i in range(3)}), "a.pt", Limits(tensors=2))


def test_an_entry_as_a_file_is_checked_first_and_then_read_from_anywhere() -> None:
    data = bytes(range(256)) * 5000
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", data)
        archive.writestr("b/c", b"x")
    file = Archive(buffer, 10).open("a")
    assert file.read() == data
    assert file.read(5) == b""
    assert file.seek(-3, io.SEEK_END) == len(data) - 3
    assert file.read(10) == data[-3:]
    assert file.seek(1000) == file.tell() == 1000
    assert file.read(7) == data[1000:1007]
    assert file.seek(3, io.SEEK_CUR) == 1010
    changed = bytearray(buffer.getvalue())
    changed[changed.index(data) + 77] ^= 1
    with pytest.raises(MalformedCheckpoint, match="checksum"):
        Archive(io.BytesIO(changed), 10).open("a")


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_line_that_refusals_print_exports_a_free_batch_whatever_the_examples(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = textwrap.dedent("\n".join(re.findall(r"^    .+$", advice.EXPORT, re.MULTILINE)))
    Path("export.py").write_text(f"import torch\n{lines}\n")
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    runpy.run_path("export.py", {"model": net, "example": torch.randn(batch, 3, 4, 4)})
    program = read(Path("model.pt2"))
    assert program.graph.inputs[0].shape == (None, 3, 4, 4)
    for size in (1, 7):
        x = torch.randn(size, 3, 4, 4)
        with torch.no_grad():
            assert torch.equal(program.run([x])[0], net(x))


def test_the_lines_take_several_inputs_in_the_place_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    monkeypatch.chdir(tmp_path)
    lines = textwrap.dedent("\n".join(re.findall(r"^    .+$", advice.EXPORT, re.MULTILINE)))
    Path("export.py").write_text(f"import torch\n{lines.replace('(example,)', '(ids, mask)')}\n")
    runpy.run_path("export.py", {"model": Two(), "ids": torch.ones(1, 3), "mask": torch.ones(1, 3)})
    assert [each.shape for each in read(Path("model.pt2")).graph.inputs] == [(None, 3), (None, 3)]
