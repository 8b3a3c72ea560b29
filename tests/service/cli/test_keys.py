import hashlib
import json
import stat

import pytest

from rightrank.service.api import keys
from rightrank.service.api.auth import Gate
from tests.service.cli.conftest import run


def test_a_key_opens_the_service_and_is_not_in_the_file(tmp_path):
    file = tmp_path / "new" / "keys"
    first = run("key", "create", "ci", "--scope", "fetch", "--scope", "publish", "--keys-file", str(file))
    second = json.loads(run("key", "create", "fleet", "--scope", "fetch", "--keys-file", str(file), "--json").stdout)
    assert first.exit_code == 0
    secret = first.stdout.strip()
    assert secret not in file.read_text()
    assert second["key"] not in file.read_text()
    assert [key.name for key in keys.read(file)] == ["ci", "fleet"]
    gate = Gate(file)
    assert gate.find(secret).scopes == {"fetch", "publish"}
    assert gate.find(second["key"]).name == "fleet"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_key_starts_a_line_of_its_own_in_a_file_written_by_hand(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"old fetch {'0' * 64}")
    assert run("key", "create", "new", "--scope", "fetch", "--keys-file", str(file)).exit_code == 0
    assert [key.name for key in keys.read(file)] == ["old", "new"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["ci", "--scope", "root"],
        ["ci", "--scope", "fetch:*"],
        ["ci", "--scope", "fetch:Acme.*"],
        ["a b", "--scope", "fetch"],
        ["ci", "--scope", "fetch", "--until", "soon"],
        ["ci"],
    ],
)
def test_a_key_that_the_service_could_not_read_is_not_made(tmp_path, arguments):
    result = run("key", "create", *arguments, "--keys-file", str(tmp_path / "keys"))
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
    assert not (tmp_path / "keys").exists()


def test_keys_are_listed_without_being_told(tmp_path):
    file = tmp_path / "keys"
    arguments = ("--scope", "fetch:acme.*", "--scope", "publish", "--until", "2001-02-03", "--keys-file", str(file))
    made = json.loads(run("key", "create", "ci", *arguments, "--json").stdout)
    assert made["until"] == "2001-02-03"
    (listed,) = json.loads(run("key", "list", "--keys-file", str(file), "--json").stdout)
    digest = hashlib.sha256(made["key"].encode()).hexdigest()
    assert listed == {
        "name": "ci",
        "scopes": ["fetch:acme.*", "publish"],
        "until": "2001-02-03",
        "expired": True,
        "digest": digest[:12],
    }
    shown = run("key", "list", "--keys-file", str(file)).stdout
    for words in ("ci", "fetch:acme.*, publish", "2001-02-03 (expired)", digest[:12]):
        assert words in shown
    assert digest not in shown


def test_a_key_is_revoked_by_name_or_digest_and_what_is_not_there_is_said(tmp_path):
    file = tmp_path / "keys"
    for name in ("ci", "dev"):
        run("key", "create", name, "--scope", "fetch", "--keys-file", str(file))
    digest = keys.read(file)[1].digest
    assert "The key ci" in run("key", "revoke", "ci", "--keys-file", str(file)).stdout
    gone = json.loads(run("key", "revoke", digest[:8], "--keys-file", str(file), "--json").stdout)
    assert gone == {"revoked": [{"name": "dev", "digest": digest[:12]}]}
    assert keys.read(file) == ()
    again = run("key", "revoke", "ci", "--keys-file", str(file))
    assert (again.exit_code, "no key of this name" in again.stderr) == (1, True)
    assert run("key", "list", "--keys-file", str(tmp_path / "other")).exit_code == 1
