from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from rightrank.service.settings import SOCKET_PATH_LIMIT, Settings, unknown


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_machines_are_not_listened_to_without_keys(host: str) -> None:
    with pytest.raises(ValueError, match="without keys"):
        Settings(host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_no_keys(host: str) -> None:
    assert Settings(host=host).host == host


def test_keys_open_other_addresses(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"ann fetch {'0' * 64}\n")
    assert Settings(host="0.0.0.0", keys_file=keys).host == "0.0.0.0"


def test_a_keys_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no keys file"):
        Settings(keys_file=tmp_path / "keys")


def test_strangers_uploads_need_the_sandbox_unless_the_operator_decides_otherwise(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"ann fetch {'0' * 64}\n")
    assert not Settings().sandbox_required
    assert Settings(sandbox="require").sandbox_required
    assert Settings(host="0.0.0.0", keys_file=keys).sandbox_required
    assert not Settings(host="0.0.0.0", keys_file=keys, sandbox="best").sandbox_required
    with pytest.raises(ValueError, match="require"):
        Settings(sandbox="none")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "number"), [("512MiB", 512 * 2**20), ("1.5 GiB", 3 * 2**29), ("2GB", 2 * 10**9), ("20000000", 20_000_000)]
)
def test_sizes_are_bytes_or_have_a_unit(monkeypatch: pytest.MonkeyPatch, text: str, number: int) -> None:
    monkeypatch.setenv("RIGHTRANK_CACHE_BYTES", text)
    assert Settings().cache_bytes == number


@pytest.mark.parametrize("text", ["512MB5", "many", "-1GiB", "15MiB"])
def test_a_size_that_is_none_or_too_small_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RIGHTRANK_CACHE_BYTES", text)
    with pytest.raises(ValidationError):
        Settings()


def test_variables_that_look_like_settings_and_are_none_are_named() -> None:
    names = [
        "RIGHTRANK_CACHE_BYTE",
        "RIGHTRANK_PORT",
        "rightrank_port",
        "RIGHTRANK_PORT_8000_TCP",
        "RIGHTRANK_URL",
        "PATH",
    ]
    assert list(unknown(names)) == [("RIGHTRANK_CACHE_BYTE", "RIGHTRANK_CACHE_BYTES"), ("RIGHTRANK_PORT_8000_TCP", "")]


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGHTRANK_UPLOAD_LIMIT", "1000")
    assert Settings().upload_limit == 1000


def test_a_long_data_path_still_has_a_socket_that_the_kernel_takes(tmp_path: Path) -> None:
    long = Settings(data=tmp_path / ("x" * 120))
    other = Settings(data=tmp_path / ("y" * 120))
    assert len(str(long.socket)) <= SOCKET_PATH_LIMIT
    assert long.socket == Settings(data=long.data).socket != other.socket


def test_a_store_elsewhere_has_no_folder() -> None:
    assert Settings(store_url="s3://bucket/prefix").store_folder is None
    assert Settings(store_url="file:///srv/models").store_folder == Path("/srv/models")
