import json
import os

from rightrank.service.cli.serving import name_unknown
from rightrank.service.registry.store import Store
from rightrank.service.settings import Settings
from tests.service.cli.conftest import run


def test_a_variable_that_is_no_setting_is_named(monkeypatch, capsys):
    monkeypatch.setenv("RIGHTRANK_CACHE_BYTE", "1")
    name_unknown()
    assert "RIGHTRANK_CACHE_BYTE is no setting; RIGHTRANK_CACHE_BYTES is" in capsys.readouterr().err


def test_serve_refuses_the_open_network_without_keys(tmp_path):
    result = run("serve", "--host", "0.0.0.0", "--data", str(tmp_path))
    assert result.exit_code == 1
    assert "refusing to listen on 0.0.0.0 without keys" in result.stderr


def test_a_store_is_looked_through_and_tidied(tmp_path, monkeypatch):
    monkeypatch.setenv("RIGHTRANK_DATA", str(tmp_path))
    store = Store(Settings(data=tmp_path))
    assert run("fsck").exit_code == 0
    store.create(f"checkpoints/{'0' * 64}", b"x")
    os.utime(tmp_path / "store" / "checkpoints" / ("0" * 64), (0, 0))
    store.create("names/net/1.json", b"torn")
    done = run("fsck", "--json")
    assert done.exit_code == 1
    found = {each["key"]: each["kind"] for each in json.loads(done.stdout)}
    assert found == {f"checkpoints/{'0' * 64}": "leftover", "names/net/1.json": "lost"}
    assert run("fsck", "--repair", "--quick").exit_code == 1
    assert store.keys("") == ["damaged/names/net/1.json"]
    done = run("fsck")
    assert done.exit_code == 0 and "note: damaged/names/net/1.json" in done.stdout
