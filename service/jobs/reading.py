"""Whether uploads can be read on this machine in the confinement that the settings ask for."""

from __future__ import annotations

import logging

from rightrank.models.confinement import layers
from rightrank.service.problems import Problem
from rightrank.service.settings import Settings

log = logging.getLogger("rightrank")


def report() -> dict[str, bool]:
    """The layers of confinement, and which of them hold on this machine."""
    return dict(layers.available())


def tell(settings: Settings) -> None:
    """Logs which layers hold, and what that means for uploads."""
    held = report()
    log.info("uploads are read behind: %s", ", ".join(name for name in held if held[name]) or "nothing")
    if missing := layers.missing(held):
        means = "are refused" if settings.sandbox_required else "are read all the same, since RIGHTRANK_SANDBOX is best"
        log.warning("this machine lacks %s: uploads %s", ", ".join(missing), means)


def able(settings: Settings) -> bool:
    """Whether a worker on this machine may read uploads."""
    return not settings.sandbox_required or not layers.missing(layers.available())


def admit(settings: Settings) -> None:
    """Refuses an upload that no worker would read. Raises `Problem`.

    With a Redis of its own the service is all on this machine. Elsewhere each worker finds out for itself, and one that
    may not read uploads leaves their queue to others.
    """
    if settings.embedded and not able(settings):
        missing = layers.missing(layers.available())
        raise Problem(
            "sandbox-missing",
            f"This machine cannot confine what reads uploads: it lacks {', '.join(missing)}.",
            "Run the service on Linux 5.13 or newer with Landlock and seccomp; or, where all publishers are trusted, "
            "set RIGHTRANK_SANDBOX=best.",
        )
