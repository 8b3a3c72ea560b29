"""The queues, and the broker behind them.

    waiting      a device waits for the answer
    ingest       a publisher does
    background   nobody does

A worker takes one job at a time, from the first of its queues that has one. The engine would let each queue
fetch a job ahead, and a job fetched behind a long one waits for it while another worker is idle; so fetching
is gated here. A worker that dies stops its heartbeat, and its job goes back to its queue.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import ConnectionClosed

from service.settings import Settings

log = logging.getLogger("rightrank")

WAITING, INGEST, BACKGROUND = QUEUES = ("waiting", "ingest", "background")
NAMESPACE = "rightrank:jobs"
HEARTBEAT_TIMEOUT = 4_000
POLL_SECONDS = 0.03
BEAT_SECONDS = 0.5


class Broker(RedisBroker):
    """Redis as the queue. Queue maintenance, which finds dead workers, comes with every command."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            client=redis.Redis.from_url(settings.redis, socket_timeout=10),
            middleware=[],
            namespace=NAMESPACE,
            maintenance_chance=1_000_000,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
        )
        self.slot = threading.Lock()
        self.order: tuple[str, ...] = ()

    @property
    def consumer_class(self) -> type[_RedisConsumer]:
        return Gated

    def has(self, queue: str) -> bool:
        return bool(self.client.exists(f"{NAMESPACE}:{queue}"))


class Gated(_RedisConsumer):
    """Fetches only while this worker has no job, and nothing is in a queue before this one."""

    _beaten = 0.0

    def __next__(self) -> Any:
        if self.queue_name not in self.broker.order:
            return super().__next__()  # type: ignore[no-untyped-call]
        message = self._fetch()
        if message is None:
            time.sleep(POLL_SECONDS)
        return message

    def _fetch(self) -> Any:
        slot = self.broker.slot
        try:
            if not slot.acquire(blocking=False):
                self._beat()
                return None
            message = None
            try:
                message = self._next()
            finally:
                if message is None:
                    slot.release()
            return message
        except redis.ConnectionError as error:
            raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]

    def _beat(self) -> None:
        """Shows that this worker is alive while it fetches nothing, and looks for others that are not."""
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            self._beaten = time.monotonic()
            self.broker.do_qsize(self.queue_name)

    def _next(self) -> Any:
        before = self.broker.order[: self.broker.order.index(self.queue_name)]
        if any(self.broker.has(queue) for queue in before):
            return None
        found = self.broker.do_fetch(self.queue_name, 1)
        if not found or found[0] is None:
            return None
        message = dramatiq.MessageProxy(dramatiq.Message.decode(found[0]))
        self.queued_message_ids.add(message.message_id)
        return message

    def ack(self, message: Any) -> None:
        with self._freeing():
            super().ack(message)  # type: ignore[no-untyped-call]

    def nack(self, message: Any) -> None:
        with self._freeing():
            super().nack(message)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def _freeing(self) -> Iterator[None]:
        """Lets the next job in, unless the connection failed: then this is tried again."""
        try:
            yield
        except ConnectionClosed:
            raise
        except BaseException:
            self._free()
            raise
        self._free()

    def _free(self) -> None:
        if self.queue_name in self.broker.order:
            self.broker.slot.release()


def queues_of(index: int, count: int) -> tuple[str, ...]:
    """What worker `index` of `count` serves, so that a device never waits for long work to end.

    Where there are several, one takes no ingest (long) and another no background work.
    """
    if count == 1:
        return QUEUES
    return {0: (WAITING, INGEST), 1: (WAITING, BACKGROUND)}.get(index, QUEUES)


class Jobs:
    """The sending side."""

    def __init__(self, settings: Settings) -> None:
        self.broker = Broker(settings)

    def send(self, queue: str, operation: str) -> None:
        """Queues the job of an operation; a second copy of it does no harm."""
        self.broker.enqueue(
            dramatiq.Message(queue_name=queue, actor_name="perform", args=(operation,), kwargs={}, options={})
        )

    def length(self, queue: str) -> int:
        """How many jobs wait in a queue."""
        found: int = self.broker.client.llen(f"{NAMESPACE}:{queue}")
        return found
