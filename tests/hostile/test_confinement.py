"""Each layer alone refuses what it is there for, and all together refuse everything that `acts` has."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rightrank.models.checkpoint import readers, sandbox
from rightrank.models.checkpoint.limits import Limits
from rightrank.models.checkpoint.readers import Readers
from rightrank.models.confinement import layers
from tests.hostile import acts, mutated

USERS = acts.users()


@functools.cache
def tried(uid: int, *only: str) -> dict[str, str]:
    return acts.tried(uid, only)


def need(names: Sequence[str]) -> None:
    if lacking := [name for name in names if not acts.there()[name]]:
        pytest.skip(f"this machine has no {', '.join(lacking)} to try")


# Without those that say nothing: an ordinary user has no capabilities to lose, and root is never refused a process by a
# limit; that limits hold besides is tested where they are set.
ALONE = [
    (uid, name)
    for uid in USERS
    for name in layers.LAYERS
    if (bool(uid), name) not in ((True, "capabilities"), (False, "limits"))
]


@pytest.mark.parametrize(("uid", "layer"), ALONE)
def test_a_layer_alone_refuses_what_nothing_refused_before(uid: int, layer: str) -> None:
    need([layer])
    expected = [act.name for act in acts.ACTS if layer in act.layers(uid)]
    free, alone = tried(uid), tried(uid, layer)
    assert {name: alone[name] for name in expected} == dict.fromkeys(expected, "refused")
    # Otherwise the layer would have been shown to do nothing.
    assert [name for name in expected if free[name] != "refused"]


@pytest.mark.parametrize("uid", USERS)
def test_capabilities_are_gone_in_a_user_namespace_too(uid: int) -> None:
    need(["network", "capabilities"])
    assert tried(uid, "network")["change the root"] == "done"
    assert tried(uid, "network", "capabilities")["change the root"] == "refused"


@pytest.mark.parametrize("uid", USERS)
def test_all_layers_refuse_everything(uid: int) -> None:
    need(sorted(layers.REQUIRED))
    found = tried(uid, *(name for name in layers.LAYERS if acts.there()[name]))
    assert found == {act.name: "refused" for act in acts.ACTS}


def test_without_a_layer_nearly_everything_is_let_through() -> None:
    """Of the table, what is refused anyway says nothing of a layer."""
    refused = [name for name, outcome in tried(USERS[-1]).items() if outcome == "refused"]
    assert len(refused) < len(acts.ACTS) / 2, refused


def do(request: Mapping[str, Any]) -> None:
    """What the child does in place of reading."""
    opened = []
    for descriptor in range(256):
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_GETFD)
            opened.append(descriptor)
    found = {"acts": acts.attempt_all(request["architecture"]), "opened": opened}
    Path(request["out"], "found").write_text(json.dumps(found))


def test_the_child_that_reads_can_do_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(sorted(layers.REQUIRED))
    monkeypatch.setattr(readers, "COMMAND", acts.child("from tests.hostile.test_confinement import do"))
    with acts.scene(os.getuid()) as places, contextlib.closing(Readers(tmp_path)) as own:
        kept = os.open(places["stored"], os.O_RDONLY)
        os.set_inheritable(kept, True)
        held = sandbox.prepare(
            Path(places["upload"]),
            Path(places["out"]),
            architecture=places,
            limits=Limits(1 << 30, 60),
            required=True,
            readers=own,
        )
        os.close(kept)
        found = json.loads(Path(places["out"], "found").read_text())
    assert held == acts.there()
    assert found["acts"] == {act.name: "refused" for act in acts.ACTS}
    # Standard input, output and errors, all three nowhere, and the answer.
    assert len(found["opened"]) == 4


def test_damaged_files_change_nothing_outside_and_leave_nobody_behind() -> None:
    """`make hostile` does the same with a thousand."""
    found = mutated.run(40)
    assert (found.changed, found.ended) == ([], [])
    assert sum(found.outcomes.values()) == 40
    assert {kind.partition("-")[0] for kind in found.outcomes} == {"read", "checkpoint"}
