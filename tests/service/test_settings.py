from __future__ import annotations

from pathlib import Path

import pytest

from rightrank.service.settings import SOCKET_PATH_LIMIT, Settings


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
