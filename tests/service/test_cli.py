from tests.service.cli.conftest import run


def test_every_command_explains_itself():
    assert run("--help").exit_code == 0
    for command in ("serve", "worker", "push", "pull", "models", "show", "measure", "delete", "key"):
        shown = run(command, "--help")
        assert shown.exit_code == 0, command
        assert command in run("--help").stdout


def test_the_command_that_serve_uses_for_itself_is_not_advertised():
    assert " api " not in run("--help").stdout


def test_the_version_is_told():
    assert run("--version").stdout.split()[0] == "rightrank"
