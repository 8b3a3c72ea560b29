from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rightrank.service.problems import Problem
from rightrank.service.registry import reports as module
from rightrank.service.registry.layout import reported_key
from rightrank.service.registry.reports import MOST, REMEMBERED, Report, Reports
from rightrank.service.registry.store import Store
from rightrank.service.settings import Settings
from tests.faulty_s3 import REFUSE, Bucket

ID, OTHER = f"m{'a' * 24}", f"m{'b' * 24}"
FILE, SECOND = "0" * 64, "f" * 64
WER = Report("wer", 0.083, 2000, 0.07, 0.1, False, 1.0, "eve")


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, settings: Settings, bucket: Bucket) -> Iterator[Store]:
    url = "s3://bucket" if request.param == "bucket" else None
    yield Store(settings.model_copy(update={"store_url": url}))


def test_a_report_is_of_its_file_and_the_later_one_counts(store: Store) -> None:
    reports = Reports(store)
    assert reports.of(ID) == {} and reports.history(ID, FILE, "wer") == []
    later = replace(WER, value=0.08, reported=2.0)
    for report in (WER, later, replace(later, reported=3.0, by="bob")):
        reports.add(ID, FILE, report)
    reports.add(ID, SECOND, replace(WER, metric="cer"))
    assert reports.of(ID) == {FILE: {"wer": later}, SECOND: {"cer": replace(WER, metric="cer")}}
    assert reports.of(OTHER) == {}
    assert reports.history(ID, FILE, "wer") == [later, WER]
    assert store.keys(reported_key(ID)) == [reported_key(ID, FILE, "wer", 2), reported_key(ID, SECOND, "cer", 1)]


def test_what_is_kept_is_bounded(store: Store) -> None:
    reports = Reports(store)
    for number in range(REMEMBERED + 5):
        reports.add(ID, FILE, replace(WER, value=float(number)))
    assert [each.value for each in reports.history(ID, FILE, "wer")] == [float(n) for n in range(20, 4, -1)]
    for number in range(1, MOST):
        reports.add(ID, FILE, replace(WER, metric=f"m{number}"))
    with pytest.raises(Problem, match=f"{MOST} metrics are reported of this file already: m1, m10"):
        reports.add(ID, FILE, replace(WER, metric="one.more"))
    reports.add(ID, FILE, replace(WER, value=0.0))
    reports.add(ID, SECOND, replace(WER, metric="one.more"))
    assert len(store.keys(reported_key(ID))) == MOST + 1


def test_what_is_withdrawn_is_gone_and_can_be_reported_anew(store: Store) -> None:
    here, there = Reports(store), Reports(store)
    here.add(ID, FILE, WER)
    assert there.of(ID)[FILE]["wer"] == WER
    assert here.withdraw(ID, FILE, "wer") and not here.withdraw(ID, FILE, "wer")
    assert here.of(ID) == {} and store.keys("models") == []
    here.add(ID, FILE, replace(WER, value=12.5))
    there.forget(ID)
    assert there.of(ID)[FILE]["wer"].value == 12.5  # the same key as the first


def test_another_process_knows_after_a_moment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = Reports(store), Reports(store)
    assert there.of(ID) == {}
    here.add(ID, FILE, WER)
    monkeypatch.setattr(module, "RECHECK_SECONDS", 1e9)
    assert there.of(ID) == {}
    monkeypatch.setattr(module, "RECHECK_SECONDS", 0.0)
    assert there.of(ID) == {FILE: {"wer": WER}}


def test_what_was_read_before_a_change_is_not_kept_after_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = Reports(store)
    read = Reports._read

    def slow(self: Reports, id: str) -> module.ByFile:
        found = read(self, id)
        monkeypatch.setattr(Reports, "_read", read)
        self.add(ID, FILE, WER)
        return found

    monkeypatch.setattr(Reports, "_read", slow)
    assert reports.of(ID) == {}
    assert reports.of(ID) == {FILE: {"wer": WER}}


@pytest.mark.parametrize(
    "data",
    [b"torn", b"{}", b'{"reports": 1}', b'{"reports": [{}]}',
     json.dumps({"reports": [replace(WER, value=float("nan")).to_json()]}).encode()],
)  # fmt: skip
def test_one_that_cannot_be_read_is_none_and_hides_no_other(store: Store, data: bytes) -> None:
    reports = Reports(store)
    reports.add(ID, FILE, WER)
    store.create(reported_key(ID, FILE, "cer", 1), data)
    reports.forget(ID)
    assert reports.of(ID) == {FILE: {"wer": WER}} and reports.history(ID, FILE, "cer") == []
    reports.add(ID, FILE, replace(WER, metric="cer"))
    assert reports.of(ID)[FILE].keys() == {"cer", "wer"}


def test_what_is_known_stays_known_while_the_store_does_not_answer(
    settings: Settings, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECHECK_SECONDS", 0.0)
    reports = Reports(Store(settings.model_copy(update={"store_url": "s3://bucket"})))
    reports.add(ID, FILE, WER)
    known = reports.of(ID)
    with bucket.failing(REFUSE):
        assert reports.of(ID) == reports.lately(ID) == known
        assert reports.lately(OTHER) == {}
        with pytest.raises(Problem, match="cannot be reached"):
            reports.of(OTHER)
