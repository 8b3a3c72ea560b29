"""Whether a part that requests wait for answers: once it has not, nobody else waits for it for a moment."""

from __future__ import annotations

import threading
import time

# After a failure, for how long nothing is asked; then one question at a time finds out.
PAUSE_SECONDS = 1.0


class Reach:
    """What is known of one part's answers. A `patient` process asks in any case: a job would rather wait than fail."""

    def __init__(self, patient: bool = False) -> None:
        self._patient = patient
        self._lock = threading.Lock()
        self._closed_until: float | None = None

    def may_ask(self) -> bool:
        """Whether the part may be asked now: it answered last, or the pause is over and this is the one that tries."""
        if self._closed_until is None:
            return True
        with self._lock:
            now = time.monotonic()
            if self._closed_until is not None and now < self._closed_until:
                return False
            if self._closed_until is not None:
                self._closed_until = now + PAUSE_SECONDS
            return True

    def answered(self) -> None:
        if self._closed_until is not None:
            with self._lock:
                self._closed_until = None

    def failed(self) -> None:
        """The part could not be reached, or took too long."""
        if not self._patient:
            with self._lock:
                self._closed_until = time.monotonic() + PAUSE_SECONDS
