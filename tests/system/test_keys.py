"""A service with keys: who may do what, from the command that makes a key to the request that carries it."""

import os
import signal

import httpx

from tests.system.processes import rightrank, until


def test_each_key_opens_what_its_scope_says_and_nothing_else(fresh, net, tmp_path):
    keys = tmp_path / "keys"
    secret = {
        scope: rightrank("key", "create", f"a-{scope}", "--scope", scope, "--keys-file", keys).stdout.strip()
        for scope in ("fetch", "publish", "admin")
    }
    service = fresh(RIGHTRANK_KEYS_FILE=str(keys)).start()

    def run(scope, *arguments):
        key = {"RIGHTRANK_KEY": secret[scope]} if scope else {}
        return rightrank(*arguments, "--url", service.url, **key)

    assert "no key that this service knows" in run(None, "models").stderr
    assert "does not have the scope 'publish'" in run("fetch", "push", net / "net.pt2").stderr
    pushed = run("publish", "push", net / "net.pt2", "--name", "net")
    assert pushed.returncode == 0, pushed.stderr
    pulled = run("fetch", "pull", "net", "--budget", 0.3, "-o", tmp_path / "net.pt")
    assert pulled.returncode == 0, pulled.stderr
    assert "accuracy unmeasured" in pulled.stdout
    assert "does not have the scope 'admin'" in run("publish", "delete", "net").stderr
    assert run("admin", "delete", "net").returncode == 0
    assert "There is no model 'net'" in run("fetch", "show", "net").stderr
    wrong = httpx.get(f"{service.url}/models", headers={"Authorization": "Bearer rr_wrong"})
    assert wrong.status_code == 401
    for value in secret.values():
        assert value not in keys.read_text()
        assert value not in service.log.read_text()


def test_a_service_that_runs_takes_up_new_keys_and_lets_go_of_old_ones(fresh, tmp_path):
    keys = tmp_path / "keys"

    def make(name, *scopes):
        words = [word for scope in scopes for word in ("--scope", scope)]
        return rightrank("key", "create", name, *words, "--keys-file", keys).stdout.strip()

    def status(secret):
        return httpx.get(f"{service.url}/models", headers={"Authorization": f"Bearer {secret}"}).status_code

    first = make("first", "fetch")
    # Where these tests run under nohup, the service would run so too, and heed no SIGHUP.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    service = fresh(workers=0, RIGHTRANK_KEYS_FILE=str(keys)).start()
    (api,) = service.pids("api")
    second = make("second", "fetch:acme.*")
    until(lambda: status(second) == 200, "the second key")
    assert rightrank("key", "revoke", "first", "--keys-file", keys).returncode == 0
    until(lambda: status(first) == 401, "the end of the first key")
    for pid in (service.process.pid, api):
        before = service.log.read_text().count("Read the keys again")
        os.kill(pid, signal.SIGHUP)
        until(lambda before=before: service.log.read_text().count("Read the keys again") > before, "reading again")
    keys.unlink()
    os.kill(service.process.pid, signal.SIGHUP)
    until(lambda: "could not be read again" in service.log.read_text(), "the complaint")
    assert [status(secret) for secret in (first, second, "none")] == [401, 200, 401]
    assert service.process.poll() is None and service.pids("api") == [api]
