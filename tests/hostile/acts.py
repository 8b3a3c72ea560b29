"""What a reader of uploads must not be able to do, each tried from inside; and which layer alone refuses it.

    python -m tests.hostile.acts

prints the table of SECURITY.md: every act, as root and as another user, by what it is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import json
import mmap
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rightrank.models.confinement import layers
from rightrank.models.confinement.reach import ROOT

NOBODY = 65534
NOTHING, ALL = (), layers.LAYERS
# How a refusal reads; every other error came from doing it.
REFUSALS = frozenset((errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENETUNREACH, errno.ECONNREFUSED, errno.EAGAIN))
_LIBC = ctypes.CDLL(None, use_errno=True)
_ARM = platform.machine() == "aarch64"

Places = Mapping[str, Any]


@dataclass(frozen=True)
class Act:
    """`by`: layers each of which has to refuse it alone, of every user; `by_root` and `by_others`: of these only."""

    name: str
    do: Callable[[Places], object]
    by: tuple[str, ...]
    by_root: tuple[str, ...] = ()
    by_others: tuple[str, ...] = ()

    def layers(self, uid: int) -> set[str]:
        return {*self.by, *(self.by_others if uid else self.by_root)}


def _call(x86: int, arm: int, *arguments: Any) -> int:
    result: int = _LIBC.syscall(ctypes.c_long(arm if _ARM else x86), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def _libc(name: str, *arguments: Any) -> None:
    if getattr(_LIBC, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags, 0o600))


def _connect(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as each:
        each.settimeout(5)
        each.connect(address)


def _listen(places: Places) -> None:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        each.listen()


def _send(places: Places) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as each:
        each.sendto(b"x", ("127.0.0.1", places["port"]))


def _fork(places: Places) -> None:
    if not (pid := os.fork()):
        os._exit(0)
    os.waitpid(pid, 0)


def _thread(places: Places) -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def _limit(places: Places) -> None:
    same = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, same)
    except ValueError as error:  # what Python makes of EPERM
        raise PermissionError(errno.EPERM, str(error)) from error


def _peek(places: Places) -> None:
    """process_vm_readv at an address where nothing is."""
    one = (ctypes.c_size_t * 2)(mmap.PAGESIZE, 1)
    _call(310, 270, ctypes.c_int(places["victim"]), one, ctypes.c_ulong(1), one, ctypes.c_ulong(1), ctypes.c_ulong(0))


def _own_files(places: Places) -> None:
    """Asks that a signal be sent to another process when a file can be read."""
    import fcntl

    with open(places["upload"], "rb") as file:
        fcntl.fcntl(file, fcntl.F_SETOWN, places["victim"])


def _numbers(x86: int, arm: int) -> Callable[[Places], object]:
    """A system call with arguments that come to nothing."""
    return lambda _: _call(x86, arm, *(ctypes.c_ulong(0) for _ in range(6)))


def _in(name: str, at: Callable[[str], object]) -> Callable[[Places], object]:
    return lambda places: at(places[name])


FILES, CAPABLE, CALLS, BOUNDED, AWAY = "landlock", "capabilities", "seccomp", "limits", "network"

ACTS: Sequence[Act] = (
    Act("read /etc/passwd", lambda _: _open("/etc/passwd", os.O_RDONLY), (FILES,)),
    Act("read the store", _in("stored", lambda path: _open(path, os.O_RDONLY)), (FILES,)),
    Act("read another upload", _in("other", lambda path: _open(path, os.O_RDONLY)), (FILES,)),
    Act("list the data folder", _in("data", os.listdir), (FILES,)),
    Act("list the checkout", lambda _: os.listdir(ROOT), (FILES,)),
    Act("read another user's file", _in("private", lambda path: _open(path, os.O_RDONLY)), (FILES,), (CAPABLE,)),
    Act("write to a stored file", _in("stored", lambda path: _open(path, os.O_WRONLY)), (FILES,)),
    Act("make a file elsewhere", _in("data", lambda path: _open(f"{path}/new", os.O_WRONLY | os.O_CREAT)), (FILES,)),
    Act("remove a stored file", _in("doomed", os.unlink), (FILES,)),
    Act("empty the upload", _in("upload", lambda path: _open(path, os.O_RDONLY | os.O_TRUNC)), (FILES, CALLS)),
    Act("make a link for the parent", _in("out", lambda out: os.symlink("/etc/passwd", f"{out}/link")), (FILES, CALLS)),
    Act("make a pipe for the parent", _in("out", lambda out: os.mkfifo(f"{out}/pipe")), (FILES, CALLS)),
    Act("change a file's mode", _in("upload", lambda path: os.chmod(path, 0o755)), (CALLS,)),
    Act("give a file away", _in("upload", lambda path: os.chown(path, 1, 1)), (CALLS,), (CAPABLE,)),
    Act("connect to a unix socket", _in("socket", lambda path: _connect(socket.AF_UNIX, path)), (CALLS,)),
    Act(
        "connect to an abstract socket",
        _in("abstract", lambda name: _connect(socket.AF_UNIX, f"\0{name}")),
        (FILES, CALLS, AWAY),
    ),
    Act(
        "connect by TCP",
        _in("port", lambda port: _connect(socket.AF_INET, ("127.0.0.1", port))),
        (FILES, CALLS, AWAY),
    ),
    Act("listen by TCP", _listen, (FILES, CALLS)),
    Act("send by UDP", _send, (CALLS, AWAY)),
    Act("make a pair of sockets", lambda _: [each.close() for each in socket.socketpair()], (CALLS,)),
    Act("signal another process", _in("victim", lambda pid: os.kill(pid, signal.SIGCONT)), (FILES, CALLS)),
    Act("have another process signalled", _own_files, (CALLS,)),
    Act("fork", _fork, (CALLS,), by_others=(BOUNDED,)),
    Act("start a thread", _thread, (CALLS,), by_others=(BOUNDED,)),
    Act("hold another process", lambda places: os.pidfd_open(places["victim"]), (CALLS,)),
    Act("trace another process", _in("victim", lambda pid: _libc("ptrace", 16, pid, 0, 0)), (FILES, CALLS), (CAPABLE,)),
    Act("read another's memory", _peek, (FILES, CALLS), (CAPABLE,)),
    Act("set a limit", _limit, (CALLS,)),
    Act("mount", _in("out", lambda out: _libc("mount", b"x", out.encode(), b"none", 0, None)), (CALLS,), (CAPABLE,)),
    Act("change the root", lambda _: os.chroot("/"), (CALLS,), (CAPABLE,)),
    Act("name the machine", lambda _: socket.sethostname(socket.gethostname()), (CALLS,), (CAPABLE,)),
    Act("reboot", _numbers(169, 142), (CALLS,), (CAPABLE,)),
    Act("load a module", _numbers(175, 105), (CALLS,), (CAPABLE,)),
    Act("load a program into the kernel", _numbers(321, 280), (CALLS,)),
    Act("keep a key", _numbers(250, 219), (CALLS,)),
    Act("watch the processor", _numbers(298, 241), (CALLS,)),
    Act("queue calls (io_uring)", _numbers(425, 425), (CALLS,)),
    Act("handle page faults", _numbers(323, 282), (CALLS,)),
    Act("take on groups", lambda _: os.setgroups([]), (CALLS,), (CAPABLE,)),
    # The last two: where they are let through, what comes after them says little, or nothing comes.
    Act("make a user namespace", lambda _: _libc("unshare", 0x10000000), (CALLS,)),
    Act("run a program", lambda _: os.execv("/bin/echo", ["echo", '["run a program", "done"]']), (FILES, CALLS)),
)


def attempt(act: Act, places: Places) -> str:
    """What came of an act: "refused", or in which way it was done."""
    try:
        act.do(places)
    except OSError as error:
        return "refused" if error.errno in REFUSALS else f"done, {errno.errorcode.get(error.errno or 0, 'failed')}"
    except RuntimeError:  # a thread that cannot be started
        return "refused"
    return "done"


def attempt_all(places: Places) -> dict[str, str]:
    return {act.name: attempt(act, places) for act in ACTS}


@contextlib.contextmanager
def scene(uid: int) -> Iterator[dict[str, Any]]:
    """What there is to be harmed, all of it the user's own and open to him, so that nothing but a layer protects it."""
    folder = Path(tempfile.mkdtemp(prefix="acts-"))
    for name in ("data", "out", "scratch"):
        (folder / name).mkdir()
    for name in ("upload", "other", "private", "data/stored", "data/doomed"):
        (folder / name).write_bytes(b"x" * 16)
    listening = [socket.socket(), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    abstract = f"acts-{os.getpid()}-{uid}"
    for each, address in zip(listening, [("127.0.0.1", 0), str(folder / "socket"), f"\0{abstract}"], strict=True):
        each.bind(address)
        each.listen()
    if not os.getuid():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, uid)
        os.chown(folder / "private", 1, 1)
    (folder / "private").chmod(0o600 if not os.getuid() else 0o644)
    folder.chmod(0o755)
    as_user = {"user": uid, "group": uid, "extra_groups": []} if uid != os.getuid() else {}
    victim = subprocess.Popen(["sleep", "600"], **as_user)  # type: ignore[call-overload]
    try:
        yield {
            **{name: str(folder / name) for name in ("upload", "other", "private", "data", "out", "scratch", "socket")},
            **{name: str(folder / "data" / name) for name in ("stored", "doomed")},
            "abstract": abstract,
            "port": listening[0].getsockname()[1],
            "victim": victim.pid,
        }
    finally:
        victim.kill()
        victim.wait()
        for each in listening:
            each.close()
        shutil.rmtree(folder)


def tried(uid: int, only: Sequence[str]) -> dict[str, str]:
    """What came of every act in a process of that user with the layers `only`. Raises where a layer does not hold."""
    with scene(uid) as places:
        request = json.dumps({"uid": uid, "only": list(only), "places": places})
        done = subprocess.run(
            [sys.executable, "-m", "tests.hostile.acts", request], cwd=ROOT, capture_output=True, text=True, check=False
        )
    held, *lines = map(json.loads, done.stdout.splitlines())
    assert set(only) <= {name for name, holds in held.items() if holds}, (only, held)
    return dict(lines)


def perform(request: Mapping[str, Any]) -> None:
    """The process of `tried`: what held, then each act with what came of it, a line each."""
    uid, places = request["uid"], request["places"]
    if uid != os.getuid():
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    reads, writes = [Path(places["upload"])], [Path(places["out"]), Path(places["scratch"])]
    print(json.dumps(dict(layers.apply(reads, writes, 60, 1 << 30, request["only"]))), flush=True)
    for act in ACTS:
        print(json.dumps([act.name, attempt(act, places)]), flush=True)
    os._exit(0)


def child(do: str) -> tuple[str, ...]:
    """The command of a reading child that, in place of reading, does what `do`, code, defines under that name. All else
    is the real one's; without torch, which takes seconds."""
    script = f"""
import sys, types
{do}
name = "rightrank.models.checkpoint.work"
sys.modules.setdefault(name, types.SimpleNamespace(do=do, warm_up=int))
from rightrank.models.checkpoint.__main__ import main
main()
"""
    return (sys.executable, "-s", "-c", script)


@functools.cache
def there() -> Mapping[str, bool]:
    """Which layers this machine has, by the kernel's word and not by that of the layers themselves: one that came to
    refuse nothing would say that it is not to be had."""
    linux = platform.system() == "Linux"
    namespaces = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x50000000) != 0)"
    return {
        "network": linux and subprocess.run([sys.executable, "-c", namespaces], check=False).returncode == 0,
        "limits": linux,
        "capabilities": linux,
        # Both are asked what they are, with nothing to be done.
        "landlock": linux and _LIBC.syscall(444, None, 0, 1) > 0,
        "seccomp": linux and platform.machine() in ("x86_64", "aarch64") and _LIBC.prctl(21, 0, 0, 0, 0) >= 0,
    }


def users() -> list[int]:
    """Who can be tried here: this user, and where that is root another one."""
    return [os.getuid()] if os.getuid() else [0, NOBODY]


def table() -> Iterator[str]:
    """Every act, and for each user which layers refuse it alone; `rights`: it is refused without any."""
    yield f"| | {' | '.join('root' if not uid else 'another user' for uid in users())} |"
    yield f"| --- |{' --- |' * len(users())}"
    found = {(uid, only): tried(uid, only) for uid in users() for only in (NOTHING, *((each,) for each in ALL), ALL)}
    for act in ACTS:
        cells = []
        for uid in users():
            refused = [only for only in ((each,) for each in ALL) if found[uid, only].get(act.name) == "refused"]
            own = found[uid, NOTHING].get(act.name) == "refused"
            whole = found[uid, ALL].get(act.name) == "refused"
            cells.append(("rights" if own else ", ".join(each[0] for each in refused)) if whole else "NOT REFUSED")
        yield f"| {act.name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        perform(json.loads(sys.argv[1]))
    print("\n".join(table()))
