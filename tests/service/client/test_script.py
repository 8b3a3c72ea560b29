from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rightrank.service.client.script import ScriptError, named, number_in, own_python, run
from rightrank.service.registry import reports


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("0.083\n", {"value": 0.083}),
        ("epoch 1\n 3 \n\n", {"value": 3.0}),
        ("50%\r100%\r1e-3", {"value": 0.001}),
        ('{"metric": "wer", "value": 1, "n": 20, "low": 0, "high": 2.5, "higher_is_better": false}',
         {"metric": "wer", "value": 1.0, "n": 20, "low": 0.0, "high": 2.5, "higher_is_better": False}),
        ('{"value": 0.5, "n": null, "low": null, "high": null}', {"value": 0.5}),
    ],
)  # fmt: skip
def test_the_last_line_is_the_number(printed: str, found: dict[str, object]) -> None:
    assert number_in(printed) == found


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("", "printed nothing"),
        ("0.5\ndone", "'done', which is no number"),
        ("tensor(0.5)", "no number"),
        ("93%", "no number"),
        ("NaN", "no number"),
        ("-Infinity", "no number"),
        ("nan", "no number"),
        ("1e400", "not finite"),
        ("9" * 400, "not finite"),
        ("9" * 5000, "no number"),
        ("true", "no number"),
        ("null", "no number"),
        ('"0.5"', "no number"),
        ("[0.5]", "no number"),
        ("[" * 60_000, "no number"),
        ("{}", "no `value`"),
        ('{"value": "0.5"}', "whose value is no number"),
        ('{"value": NaN}', "no number"),
        ('{"value": 1, "low": "x", "high": 2}', "whose low is no number"),
        ('{"value": 1, "samples": 3}', "'samples' is none of metric, value"),
    ],
)
def test_what_is_no_number_is_refused_in_words(printed: str, told: str) -> None:
    with pytest.raises(ScriptError) as refused:
        number_in(printed)
    assert told in str(refused.value) and len(str(refused.value)) < 600


def test_a_metric_is_called_as_the_script_or_the_command_says_or_else_as_the_script_is() -> None:
    assert named({"value": 1.0}, Path("a/wer.py"), None, None) == {"value": 1.0, "metric": "wer"}
    assert named({"value": 1.0}, Path("a/wer.py"), "cer", False)["metric"] == "cer"
    said = {"metric": "map.50", "value": 1.0, "higher_is_better": True}
    assert named(dict(said), Path("wer.py"), "map.50", True) == said
    for metric, way in (("wer", None), (None, False)):
        with pytest.raises(ScriptError, match="and the command"):
            named(dict(said), Path("wer.py"), metric, way)


@pytest.mark.parametrize(
    ("metric", "likely"),
    [("mAP@0.5", "map-0.5"), ("5", "wer"), ("Word Error", "word-error"), ("x" * 33, "x" * 32), (3, "wer")],
)
def test_a_name_that_can_be_none_is_refused_with_one_that_can(metric: object, likely: str) -> None:
    with pytest.raises(ScriptError, match=f"--metric {likely}, .* measured is 0.25"):
        named({"metric": metric, "value": 0.25}, Path("wer.py"), None, None)


def test_the_command_and_the_service_take_the_same_names() -> None:
    from rightrank.service.client import script

    assert script.METRIC.pattern == reports.METRIC.pattern


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "script.py"


def test_a_script_is_given_the_file_and_not_the_key_and_is_heard(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIGHTRANK_KEY", "rr_secret")
    monkeypatch.setenv("OWN", "yes")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.pt").write_bytes(bytes(7))
    script.write_text(
        "import os, sys\nassert 'RIGHTRANK_KEY' not in os.environ and os.environ['OWN'] == 'yes'\n"
        "print('x' * 200_000)\nprint('reading', os.getcwd())\nprint(os.path.getsize(sys.argv[1]))\n"
    )
    heard: list[str] = []
    assert run(sys.executable, script, tmp_path / "file.pt", heard.append) == {"value": 7.0}
    assert "".join(heard).endswith(f"reading {tmp_path}\n7\n")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("print(1)\nraise SystemExit(3)", "ended with status 3"),
        ("import os; print(1, flush=True); os.kill(os.getpid(), 9)", "by signal 9"),
        ("import sys; print(1, file=sys.stderr)", "printed nothing"),
    ],
)
def test_a_script_that_fails_measures_nothing(script: Path, source: str, told: str) -> None:
    script.write_text(source)
    with pytest.raises(ScriptError, match=told):
        run(sys.executable, script, script, lambda text: None)


def test_a_python_that_is_not_there_is_named(script: Path) -> None:
    with pytest.raises(ScriptError, match="--python"):
        run(str(script / "python"), script, script, lambda text: None)


def test_a_script_ends_with_who_started_it(script: Path) -> None:
    script.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    heard: list[str] = []

    def interrupt(text: str) -> None:
        heard.append(text)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(sys.executable, script, script, interrupt)
    assert not Path(f"/proc/{int(heard[0])}").exists()


def test_the_shells_python_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert own_python() == str(tmp_path / "python")
    monkeypatch.setenv("PATH", "")
    assert own_python() == sys.executable
