from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightrank.models.emit import archive

RECORDS = st.dictionaries(
    st.text("abcdefgh/._0123", min_size=1, max_size=80), st.tuples(st.binary(max_size=200), st.booleans()), max_size=8
)


@given(RECORDS)
def test_any_records_come_back_from_pythons_own_reader(records: dict[str, tuple[bytes, bool]]) -> None:
    data = b"".join(archive.pieces((name, *record) for name, record in records.items()))
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
        assert {entry.filename: file.read(entry) for entry in file.infolist()} == {
            name: content for name, (content, _) in records.items()
        }


@given(RECORDS)
def test_aligned_data_start_at_a_multiple_of_64_bytes(records: dict[str, tuple[bytes, bool]]) -> None:
    pieces = list(archive.pieces((name, *record) for name, record in records.items()))
    for index, (_, aligned) in enumerate(records.values()):
        assert not aligned or sum(map(len, pieces[: 2 * index + 1])) % 64 == 0


@given(st.integers(0, 10_000), st.text("a", min_size=1, max_size=200))
def test_padding_is_a_whole_extra_field_of_the_length_announced(offset: int, name: str) -> None:
    length = archive.padding(offset, name)
    assert length == 0 or 4 <= length < 68
    field = archive.filler(length)
    assert len(field) == length and int.from_bytes(field[2:4], "little") == max(length - 4, 0)


def test_more_records_than_the_format_counts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST", 3)
    records = [(str(number), b"", False) for number in range(4)]
    with pytest.raises(OverflowError):
        b"".join(archive.pieces(records))
