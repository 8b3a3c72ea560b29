from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from rightrank.service.jobs.dispatch import Parts
from rightrank.service.problems import Problem
from rightrank.service.registry import disk
from rightrank.service.registry.pieces import Damaged, digest
from rightrank.service.registry.store import KEPT_FOLDERS, Store
from rightrank.service.settings import Settings
from tests.faulty_s3 import ABSENT, HANG, REFUSE, RESET, Bucket
from tests.service.conftest import Files, at_work, serving


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store in a folder, and one that has none."""
    store = Store(Settings(data=tmp_path))
    if request.param == "bucket":
        store.root = None
        store.use(MemoryStore())
    yield store


def test_the_first_to_write_a_key_wins(store: Store) -> None:
    assert store.create("a/b", b"first")
    assert not store.create("a/b", b"second")
    assert store.read("a/b") == b"first"


def test_a_file_under_a_key_that_exists_changes_nothing(store: Store, tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / text).write_text(text)
        store.create_file("a/b", tmp_path / text)
    assert store.read("a/b") == b"first"


def test_a_stored_file_outlives_the_one_it_came_from(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(b"x" * 100)
    store.create_file("a/b", path)
    path.unlink()
    with store.files({"mine": "a/b"}) as files:
        assert files["mine"].read_bytes() == b"x" * 100


def test_json_comes_back_as_it_was_and_what_is_not_there_is_none(store: Store) -> None:
    store.create_json("a.json", {"n": [1, 2.5, None]})
    assert store.read_json("a.json") == {"n": [1, 2.5, None]}
    assert store.read_json("b.json") is None


def test_a_number_that_is_not_finite_is_read_as_none(store: Store) -> None:
    store.create_json("a.json", {"n": [1, float("nan")], "of": {"low": -float("inf"), "high": float("inf")}})
    assert store.read_json("a.json") == {"n": [1, None], "of": {"low": None, "high": None}}


def test_what_is_not_there_cannot_be_read(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.read("a/b")
    with pytest.raises(FileNotFoundError), store.files({"mine": "a/b"}):
        pass


def test_keys_are_found_below_a_prefix_and_folders_right_below_it(store: Store) -> None:
    for key in ("models/a/x", "models/a/y/z", "models/b/x", "names/a/1.json"):
        store.create(key, b"")
    assert store.keys("models/a") == ["models/a/x", "models/a/y/z"]
    assert store.children("models") == ["a", "b"]
    assert store.children("nothing") == []


def test_deleting_is_final_and_deleting_nothing_is_no_error(store: Store) -> None:
    store.create("a/b", b"")
    store.delete("a/b", "a/b", "a/c")
    assert not store.exists("a/b")
    assert store.children("") == [] or store.keys("a") == []


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rightrank.service.registry.store.PIECE", 7)


DATA = bytes(range(100))
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def artifact(store: Store, small_pieces: None, tmp_path: Path) -> str:
    """The key of an artifact in the store."""
    (tmp_path / "artifact").write_bytes(DATA)
    assert store.create_artifact("a/b.pt", tmp_path / "artifact")
    return "a/b.pt"


def test_a_stream_is_exactly_the_bytes_asked_for(store: Store, artifact: str) -> None:
    for start, stop in ((3, 90), (0, 100), (7, 14), (98, 100), (0, 1)):
        assert b"".join(store.stream(artifact, start, stop, SHA256)) == DATA[start:stop]


def test_an_artifact_from_before_pieces_had_digests_is_read_once_for_them(store: Store, small_pieces: None) -> None:
    store.create("a/b.pt", DATA)
    assert b"".join(store.stream("a/b.pt", 3, 90, SHA256)) == DATA[3:90]
    assert store.exists("a/b.pt.pieces")


@pytest.mark.parametrize("fault", ["changed", "cut short", "digests changed", "another"])
def test_an_artifact_that_is_not_what_was_written_is_never_sent_and_is_set_aside(
    store: Store, artifact: str, fault: str
) -> None:
    key = artifact + ".pieces" if fault == "digests changed" else artifact
    data = bytearray(store.read(key))
    data[60] ^= 1
    store.delete(key)
    store.create(key, bytes(data[:50]) if fault == "cut short" else bytes(data))
    sent = b""
    with pytest.raises(Damaged):
        for piece in store.stream(artifact, 0, 100, "0" * 64 if fault == "another" else SHA256):
            sent += piece
    assert sent == DATA[: len(sent)]
    assert not store.exists(artifact) and store.exists(f"damaged/{artifact}")


def test_an_artifact_that_came_out_otherwise_takes_the_place_of_the_one_before(
    store: Store, artifact: str, tmp_path: Path
) -> None:
    (tmp_path / "artifact").write_bytes(DATA[::-1])
    assert store.create_artifact(artifact, tmp_path / "artifact")
    assert b"".join(store.stream(artifact, 0, 100, hashlib.sha256(DATA[::-1]).hexdigest())) == DATA[::-1]


def test_a_folder_has_the_objects_asked_for(store: Store) -> None:
    store.create("models/a/x", b"1")
    store.create("models/a/y", b"2")
    with store.folder("models/a", ("x", "y")) as folder:
        assert (folder / "x").read_bytes() + (folder / "y").read_bytes() == b"12"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Store:
    store = Store(Settings(data=tmp_path))
    store.root = None
    store.use(MemoryStore())
    return store


def test_only_a_few_folders_of_a_bucket_are_kept_and_those_in_use(elsewhere: Store) -> None:
    elsewhere.create("models/used/x", b"1")
    with elsewhere.folder("models/used", ("x",)) as used:
        for n in range(KEPT_FOLDERS + 3):
            elsewhere.create(f"models/{n}/x", b"")
            with elsewhere.folder(f"models/{n}", ("x",)) as last:
                pass
        assert len(list(elsewhere.copies.iterdir())) == KEPT_FOLDERS + 1
        assert last.exists() and (used / "x").read_bytes() == b"1"
    with elsewhere.folder(f"models/{n}", ("x",)):
        pass
    assert len(list(elsewhere.copies.iterdir())) == KEPT_FOLDERS and not used.exists()


def test_folders_of_a_bucket_may_be_asked_for_at_once(elsewhere: Store) -> None:
    elsewhere.create("models/a/x", bytes(3_000_000))
    sizes: list[int] = []

    def read() -> None:
        with elsewhere.folder("models/a", ("x",)) as folder:
            sizes.append((folder / "x").stat().st_size)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [3_000_000] * 8


def test_a_folder_is_not_taken_for_that_of_the_same_model_uploaded_again(elsewhere: Store) -> None:
    for created in (1.0, 2.0):
        elsewhere.delete("models/a/x")
        elsewhere.create("models/a/x", str(created).encode())
        with elsewhere.folder("models/a", ("x",), created) as folder:
            assert (folder / "x").read_bytes() == str(created).encode()


def test_what_is_at_a_key_has_a_tag_until_it_is_replaced(store: Store, tmp_path: Path) -> None:
    assert store.tag("a") is None
    store.create("a", b"1")
    tag = store.tag("a")
    assert tag is not None and store.tag("a") == tag
    store.delete("a")
    store.create("a", b"22")
    assert store.tag("a") not in (None, tag)


def test_working_folders_of_dead_processes_are_swept_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    store = Store(Settings(data=tmp_path))
    script = (
        "import os, sys; from pathlib import Path; from rightrank.service.settings import Settings\n"
        "from rightrank.service.registry.store import Store\n"
        "with Store(Settings(data=Path(sys.argv[1]))).folder_for_work(): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path]).returncode == -9
    assert len(list(store.scratch.iterdir())) == 1
    with store.folder_for_work() as mine:
        store.sweep()
        assert list(store.scratch.iterdir()) == [mine]
    assert not mine.exists()


def test_a_key_cannot_leave_the_store(tmp_path: Path) -> None:
    store = Store(Settings(data=tmp_path))
    (tmp_path / "secret").write_text("x")
    with pytest.raises(Exception, match="(?i)path|segment"):
        store.read("../secret")


def test_a_whole_service_works_on_a_bucket(
    settings: Settings, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder behind the interface of a bucket: nothing may find it as a folder.
    monkeypatch.setattr(Settings, "store_folder", None)
    (tmp_path / "bucket").mkdir()
    remote = settings.model_copy(update={"store_url": f"file://{tmp_path}/bucket"})
    with serving(remote) as running, at_work(remote):
        id = running.publish(files, name="net")
        assert len(running.client.get("/models/net?budget=0.45").content) > 0
        assert running.client.delete(f"/models/{id}?purge=true").status_code == 200
    assert running.parts.store.keys("") == ["names/net/1.json"]


def unavailable(caught: pytest.ExceptionInfo[Problem]) -> bool:
    return caught.value.kind == "unavailable" and int(caught.value.headers["Retry-After"]) > 0


@pytest.fixture
def remote(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in a bucket that goes wrong when it is told to, and that is asked again at once."""
    monkeypatch.setattr("rightrank.service.registry.reach.PAUSE_SECONDS", 0.0)
    for name in ("QUICK", "PIECE_TIME"):
        monkeypatch.setattr(f"rightrank.service.registry.store.{name}", timedelta(seconds=1))
    return Store(Settings(data=tmp_path, store_url="s3://bucket"))


@pytest.mark.parametrize("fault", [HANG, REFUSE, RESET])
def test_whatever_is_asked_of_a_bucket_that_fails_is_unavailable(
    remote: Store, bucket: Bucket, tmp_path: Path, fault: str
) -> None:
    remote.create("a/b", b"1")
    (tmp_path / "f").write_bytes(b"2")
    questions: list[Callable[[], object]] = [
        lambda: remote.exists("a/b"),
        lambda: remote.read("a/b"),
        lambda: remote.read_json("a/b"),
        lambda: remote.keys("a"),
        lambda: remote.children(""),
        lambda: remote.create("a/c", b"2"),
        lambda: remote.create_file("a/d", tmp_path / "f"),
        lambda: remote.delete("a/b"),
        lambda: list(remote.stream("a/b", 0, 1, "0" * 64)),
        lambda: remote.sha256("a/b"),
        remote.check,
    ]
    with bucket.failing(fault):
        for question in questions[:: 3 if fault == HANG else 1]:
            with pytest.raises(Problem) as caught:
                question()
            assert unavailable(caught)
    assert remote.read("a/b") == b"1" and remote.keys("") == ["a/b"]


def test_one_refusal_is_tried_again(remote: Store, bucket: Bucket) -> None:
    remote.create("a/b", b"1")
    with bucket.failing(REFUSE, times=1) as fault:
        assert remote.read("a/b") == b"1"
        assert fault.seen == 2


def test_nothing_can_be_written_into_a_bucket_that_is_not_there(remote: Store, bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"2")
    with bucket.failing(ABSENT):
        for write in (lambda: remote.create("a", b"1"), lambda: remote.create_file("a", tmp_path / "f")):
            with pytest.raises(Problem) as caught:
                write()
            assert unavailable(caught)


@pytest.mark.parametrize("whole", [100, 10])
def test_of_those_who_put_a_file_under_a_key_at_once_one_succeeds(
    remote: Store, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    """Whether the file goes up in one request, or is too large for that."""
    monkeypatch.setattr("rightrank.service.registry.store.WHOLE", whole)
    monkeypatch.setattr(Store, "exists", lambda store, key: False)  # none of them saw another
    for number in range(4):
        (tmp_path / str(number)).write_bytes(bytes([number]) * 50)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda n: remote.create_file("a/b", tmp_path / str(n)), range(4)))
    assert done.count(True) == 1
    assert remote.read("a/b") == bytes([done.index(True)]) * 50
    assert remote.keys("") == ["a/b"] and bucket.uploads == {}


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_what_is_no_json_object_is_set_aside_and_counts_as_absent(store: Store, data: bytes) -> None:
    for again in ("", ".1"):
        store.create("models/a/manifest.json", data + again.encode())
        assert store.read_json("models/a/manifest.json") is None
        assert not store.exists("models/a/manifest.json")
        assert store.read(f"damaged/models/a/manifest.json{again}") == data + again.encode()
    assert store.create_json("models/a/manifest.json", {"n": 1})
    assert store.read_json("models/a/manifest.json") == {"n": 1}


def test_what_cannot_be_set_aside_counts_as_absent_all_the_same(remote: Store, bucket: Bucket) -> None:
    remote.create("a.json", b"torn")
    with bucket.failing(REFUSE, "put"):
        assert remote.read_json("a.json") is None
    assert remote.read("a.json") == b"torn"


def test_any_name_is_a_name(store: Store) -> None:
    for name in ("net.partial-2", f"net.partial-{'0' * 32}"):
        store.create(f"models/a/wanted/{name}", b"{}")
        store.create(f"names/{name}/1.json", b"{}")
    assert len(store.keys("models")) == len(store.keys("names")) == 2


def test_what_is_written_or_deleted_in_a_folder_is_on_the_disk_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(Settings(data=tmp_path))
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr("os.fsync", lambda file: (synced.append(os.fstat(file).st_ino), fsync(file)))
    (tmp_path / "f").write_bytes(b"1")
    for write in (lambda: store.create("a/b/c", b"1"), lambda: store.create_file("d/e/f", tmp_path / "f")):
        synced.clear()
        assert write()
        place = tmp_path / "store" / ("a/b/c" if store.root and not store.exists("d/e/f") else "d/e/f")
        above = [place, *place.parents]
        assert {path.stat().st_ino for path in above[: above.index(tmp_path / "store") + 1]} <= set(synced)
    synced.clear()
    store.create("a/b/d", b"1")
    store.delete("a/b/c")
    assert (tmp_path / "store" / "a" / "b").stat().st_ino == synced[-1]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(Settings(data=tmp_path))

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Problem) as caught:
        store.create("a", b"1")
    assert unavailable(caught)
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize("how", ["folder", "files"])
def test_what_is_not_what_was_written_is_not_handed_out(store: Store, how: str) -> None:
    store.create("models/a/x", b"1")
    digests = {"x": hashlib.sha256(b"1").hexdigest()}

    def read() -> bytes:
        if how == "folder":
            with store.folder("models/a", ("x",), digests=digests) as folder:
                return (folder / "x").read_bytes()
        with store.files({"x": "models/a/x"}, digests) as files:
            return files["x"].read_bytes()

    assert read() == b"1"
    store.delete("models/a/x")
    store.create("models/a/x", b"2")
    shutil.rmtree(store.copies, ignore_errors=True)
    with pytest.raises(Problem) as caught:
        read()
    assert unavailable(caught)


def test_a_local_copy_that_is_damaged_is_fetched_again(remote: Store) -> None:
    remote.create("models/a/x", b"1")
    digests = {"x": hashlib.sha256(b"1").hexdigest()}
    with remote.folder("models/a", ("x",), digests=digests) as folder:
        (folder / "x").write_bytes(b"2")
    with remote.folder("models/a", ("x",), digests=digests) as folder:
        assert (folder / "x").read_bytes() == b"1"


def test_a_file_that_stays_as_it_is_is_hashed_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr("rightrank.service.registry.disk.digest", lambda path: hashed.append(path) or digest(path))
    store.create("models/a/x", b"1")
    for _ in range(3):
        with store.folder("models/a", ("x",), digests={"x": hashlib.sha256(b"1").hexdigest()}):
            pass
    assert len(hashed) <= 1


def test_a_file_that_is_not_there_is_said_to_be_missing(remote: Store) -> None:
    with pytest.raises(FileNotFoundError), remote.folder("models/a", ("x",)):
        pass


def test_a_sweep_that_takes_long_keeps_nobody_from_working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(Settings(data=tmp_path))
    (store.scratch / "dead").mkdir()
    removing, go_on = threading.Event(), threading.Event()

    def remove(folder: Path, **how: bool) -> None:
        removing.set()
        assert go_on.wait(20)

    with monkeypatch.context() as slow:
        slow.setattr("rightrank.service.registry.store.shutil.rmtree", remove)
        sweep = threading.Thread(target=store.sweep)
        sweep.start()
        assert removing.wait(20)
    with store.folder_for_work() as mine:
        assert mine.is_dir()
    go_on.set()
    sweep.join()


def test_what_a_killed_process_was_writing_is_removed_and_one_that_stood_still_begins_again(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = parts.store
    assert store.root is not None
    store.create("models/a/b", b"whole")
    left = disk.beside(store.root / "models/a/b")
    left.write_bytes(b"half")
    store.tidy()
    assert left.exists()  # it may be under way
    os.utime(left, (0, 0))
    store.tidy()
    assert not left.exists() and store.read("models/a/b") == b"whole"
    swept: list[str] = []

    def slow(partial: Path, data: bytes, write: Callable[[Path, bytes], None] = disk.write) -> None:
        write(partial, data)
        if not swept:
            swept.append(partial.name)
            os.utime(partial, (0, 0))
            store.tidy()

    monkeypatch.setattr(disk, "write", slow)
    assert store.create("models/a/c", b"again") and swept
    assert store.read("models/a/c") == b"again"
    assert sorted(path.name for path in (store.root / "models/a").iterdir()) == ["b", "c"]
