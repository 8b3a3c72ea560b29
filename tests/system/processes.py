"""`rightrank` as real processes, and what the tests ask of processes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import redis

from rightrank.service.client.http import Client
from rightrank.service.settings import Settings

ROOT = Path(__file__).parents[2]
# Generous: it only says when to give up on a machine that is busy with other things.
DEADLINE = 120.0
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("RIGHTRANK_")}


def until(condition, what="this"):
    """The condition's value once it is true."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} never became true"
        time.sleep(0.02)
    return value


def rightrank(*arguments, **environment):
    """Runs a command of `rightrank` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "rightrank.service", *map(str, arguments)],
        env={**ENVIRONMENT, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def curl(*arguments):
    """What the real curl prints; it fails where curl does."""
    done = subprocess.run(["curl", "--silent", "--show-error", *map(str, arguments)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def runs(pid):
    """Whether a process runs; one that has ended and that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    """The processes started by a process, each with its command line."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                command = stat.with_name("cmdline").read_bytes().decode().split("\0")
                found[int(stat.parent.name)] = command
    return found


class Service:
    """`rightrank serve` over one folder, which may be started again after it was stopped or killed."""

    def __init__(self, data, *, workers=2, **environment):
        self.data, self.workers, self.environment = data, workers, environment
        self.log = data.with_name(f"{data.name}.log")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = Client(self.url)
        self.process = None

    def command(self, *more):
        options = {"--port": self.port, "--data": self.data, "--workers": self.workers}
        words = [str(word) for pair in options.items() for word in pair]
        return [sys.executable, "-m", "rightrank.service", "serve", *words, *more]

    def start(self, *more):
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command(*more), env={**ENVIRONMENT, **self.environment}, cwd=ROOT, stdout=log, stderr=log
            )
        until(lambda: self.process.poll() is not None or self.client.ready(), "readiness")
        assert self.process.poll() is None, self.log.read_text()
        return self

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def pids(self, kind):
        """The processes that serve runs as `worker` or as `api`."""
        return [pid for pid, command in children(self.process.pid).items() if kind in command[1:5]]

    def redis(self):
        return redis.Redis.from_url(Settings(data=self.data).redis, decode_responses=True)

    def valkey(self):
        return self.redis().info("server")["process_id"]

    def rest(self):
        """Waits until every operation has ended, those that nobody waits for included."""
        known = self.redis()

        def at_rest():
            states = [known.hget(key, "state") for key in known.scan_iter("rightrank:operation:*")]
            return all(state in ("done", "failed", "cancelled") for state in states)

        until(at_rest, "rest")

    def end(self):
        """Leaves nothing running, whatever a test did."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        with contextlib.suppress(redis.RedisError):
            self.redis().shutdown(nosave=True)
        self.client._http.close()

    def publish(self, net, name="net"):
        """Pushes a net by the command line; its model's id."""
        data = [word for role in ("evaluation", "calibration") for word in (f"--{role}", net / f"{role}.safetensors")]
        pushed = rightrank("push", net / "net.pt2", "--name", name, *data, "--url", self.url, "--json")
        assert pushed.returncode == 0, f"{pushed.stderr}\n{self.log.read_text()}"
        return json.loads(pushed.stdout)["id"]
