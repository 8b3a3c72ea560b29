from __future__ import annotations

import datetime
import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rightrank.service.api import keys
from rightrank.service.api.keys import KeysError

ZEROS, ONES = "0" * 64, "1" * 64


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ann fetch", "expected"),
        ("ann fetch 123", "'123' is no SHA-256"),
        (f"ann fly {ZEROS}", "'fly' is no scope"),
        (f"ann fetch:* {ZEROS}", "is no scope"),
        (f"ann fetch:a*b {ZEROS}", "is no scope"),
        (f"ann fetch, {ZEROS}", "'' is no scope"),
        (f"ann fetch {ZEROS} more", "'more' is no day"),
        (f"ann fetch {ZEROS} 2027-01-31 more", "expected"),
    ],
)
def test_a_line_with_a_mistake_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "keys").write_text(f"# who may what\n{text}\n")
    with pytest.raises(KeysError, match="keys:2: ") as refused:
        keys.read(tmp_path / "keys")
    assert told in str(refused.value)


def test_what_is_no_text_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xff\xfe")
    with pytest.raises(KeysError, match="not UTF-8"):
        keys.read(tmp_path / "keys")


def test_the_keys_file_gives_no_key_away(tmp_path: Path) -> None:
    secret = keys.create(tmp_path / "keys", "ann", ["publish"])
    assert secret not in repr(keys.read(tmp_path / "keys"))
    assert secret not in (tmp_path / "keys").read_text()


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("acme.*", "acme.net", True),
        ("acme.*", "acme.", True),
        ("acme.*", "acme", False),
        ("acme.*", "acmex", False),
        ("acme.*", "other.acme.net", False),
        ("net", "net", True),
        ("net", "net2", False),
        ("n*", "net", True),
    ],
)
def test_a_pattern_is_a_name_or_the_beginning_of_names(pattern: str, name: str, fits: bool) -> None:
    assert keys.matches(pattern, name) is fits


def test_an_admin_does_all_where_it_is_for() -> None:
    (key,) = keys.parse(f"ann admin:acme.*,fetch:net {ZEROS}", "keys")
    assert [key.over(verb, "acme.x") for verb in (None, "fetch", "publish", "admin")] == [True] * 4
    assert [key.over(verb, "net") for verb in (None, "fetch", "publish", "admin")] == [True, True, False, False]
    assert not any(key.over(verb, "other") or key.everywhere(verb) for verb in (None, "fetch", "publish", "admin"))


def test_a_key_is_good_until_the_end_of_its_last_day() -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    good, gone = keys.parse(f"a fetch {ZEROS} {today}\nb fetch {ONES} {today - datetime.timedelta(2)}", "keys")
    assert (good.expired(), gone.expired()) == (False, True)


def test_taking_out_a_key_leaves_every_other_byte(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    lines = [
        "# the fleet\n",
        f"ann   fetch {ZEROS}   # since May\n",
        "\n",
        f"ben fetch {ONES}  # to go\n",
        f"#ben fetch {ONES}\n",
        f"cay fetch {'2' * 64}",
    ]
    file.write_text("".join(lines))
    file.chmod(0o644)
    before = file.stat().st_ino
    assert [key.name for key in keys.revoke(file, "ben")] == ["ben"]
    assert file.read_text() == "".join(lines[:3] + lines[4:])
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert file.stat().st_ino != before  # whole or not at all
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_taking_out_a_name_takes_all_its_keys_and_a_digest_takes_one(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ann fetch {ZEROS}\nann fetch {ONES}\nben fetch {'0' * 63}2\ncay fetch {'3' * 64}\n")
    with pytest.raises(KeysError, match="2 digests begin with 000000"):
        keys.revoke(file, "000000")
    with pytest.raises(KeysError, match="no key of this name"):
        keys.revoke(file, "33333")
    assert [key.name for key in keys.revoke(file, "3" * 6)] == ["cay"]
    assert len(keys.revoke(file, "ann")) == 2
    assert [key.name for key in keys.read(file)] == ["ben"]


def test_keys_that_are_made_side_by_side_are_all_there(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: keys.create(file, f"key-{n}", ["fetch"]), range(24)))
    assert {key.digest for key in keys.read(file)} == {hashlib.sha256(secret.encode()).hexdigest() for secret in made}


def test_a_link_to_the_keys_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "keys"
    link.symlink_to(tmp_path / "real" / "keys")
    keys.create(link, "ann", ["fetch"])
    assert link.is_symlink() and [key.name for key in keys.read(tmp_path / "real" / "keys")] == ["ann"]


def test_a_change_that_fails_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    keys.create(file, "ann", ["fetch"])
    before = file.read_bytes()

    def broken(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="no space"):
        keys.create(file, "ben", ["fetch"])
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]
