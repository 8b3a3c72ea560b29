from __future__ import annotations

from pathlib import Path

from rightrank.service.local import kept


def test_two_commands_that_make_the_same_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "improved" / "plan.safetensors"

    def write(made: Path) -> None:
        made.write_text("the first")
        kept._write(path, lambda other: other.write_text("the second"))

    kept._write(path, write)
    assert path.read_text() == "the first" and list(path.parent.iterdir()) == [path]
