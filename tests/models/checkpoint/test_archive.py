from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightrank.models.checkpoint.archive import Archive
from rightrank.models.errors import CheckpointError, MalformedCheckpoint, UnsafeCheckpoint


def packed(**found: bytes) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in found.items():
            archive.writestr(f"top/{name}", data)
    return buffer


def test_entries_are_read_by_their_name_below_the_top_folder() -> None:
    archive = Archive(packed(a=b"one", b=b""), 10)
    assert list(archive) == ["a", "b"]
    assert archive.read("a") == b"one"
    assert archive.size("b") == 0
    assert "top/a" not in archive


def test_an_entry_that_is_not_there_is_a_malformed_archive() -> None:
    with pytest.raises(MalformedCheckpoint, match="no missing"):
        Archive(packed(a=b"one"), 10).read("missing")


def test_more_bytes_than_the_caller_expects_are_not_read() -> None:
    with pytest.raises(UnsafeCheckpoint, match="at most 2"):
        Archive(packed(a=b"one"), 10).read("a", 2)


def test_more_entries_than_allowed_are_refused() -> None:
    with pytest.raises(UnsafeCheckpoint, match="at most 1"):
        Archive(packed(a=b"", b=b""), 1)


BYTES = packed(a=b"one" * 10, b=b"two" * 10).getvalue()


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(BYTES) - 1), value=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_changes_nothing_that_is_read(at: int, value: int) -> None:
    changed = bytearray(BYTES)
    changed[at] = value
    try:
        archive = Archive(io.BytesIO(changed), 10)
        found = {name: bytes(archive.read(name)) for name in archive}
    except CheckpointError:
        return
    assert sorted(found.values()) == [b"one" * 10, b"two" * 10]


@given(st.integers(0, len(BYTES) - 1))
def test_a_cut_archive_is_malformed(length: int) -> None:
    with pytest.raises(MalformedCheckpoint):
        Archive(io.BytesIO(BYTES[:length]), 10)
