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
import threading
import time
from collections.abc import Iterator
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import ConnectionClosed

from rightrank.service.settings import Settings

WAITING, INGEST, BACKGROUND = QUEUES = ("waiting", "ingest", "background")
NAMESPACE = "rightrank:jobs"
HEARTBEAT_TIMEOUT = 4_000
BUSY_SECONDS = 0.03
IDLE_SECONDS = 0.5
# More than any number of workers that could all be woken at once.
BELLS = 64
BEAT_SECONDS = 0.5


class Broker(RedisBroker):
    """Redis as the queue. Queue maintenance, which finds dead workers, comes with every command."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            client=redis.Redis.from_url(settings.redis, socket_timeout=10),
            middleware=[],
            namespace=NAMESPACE,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
        )
        self.slot = threading.Lock()
        self.order: tuple[str, ...] = ()

    @property
    def consumer_class(self) -> type[_RedisConsumer]:
        return Gated

    def _should_do_maintenance(self, command: str) -> int:
        return int(command not in ("ack", "nack"))

    def ring(self, queue: str) -> None:
        """Wakes a worker that rests at this queue."""
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.rpush(bell(queue), 1)
            pipeline.ltrim(bell(queue), 0, BELLS - 1)
            pipeline.execute()

    def has(self, queue: str) -> bool:
        return bool(self.client.exists(f"{NAMESPACE}:{queue}"))


class Gated(_RedisConsumer):
    """Fetches only while this worker has no job, and nothing is in a queue before this one."""

    _beaten = 0.0

    def __next__(self) -> Any:
        if self.queue_name not in self.broker.order:  # a queue for delayed jobs, of which there are none
            time.sleep(BEAT_SECONDS)
            return None
        try:
            message = self._fetch()
            if message is None:
                self._rest()
            return message
        except redis.ConnectionError as error:
            raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]

    def _rest(self) -> None:
        """Sleeps until this worker may be free again, or until a job is sent; not for long in any case."""
        if self.broker.slot.locked():
            time.sleep(BUSY_SECONDS)
        elif self.broker.client.blpop([bell(self.queue_name)], IDLE_SECONDS) and self.broker.slot.locked():
            self.broker.ring(self.queue_name)  # another queue was faster; this is for another worker

    def _fetch(self) -> Any:
        if not self.broker.slot.acquire(blocking=False):
            self._beat()
            return None
        message = None
        try:
            message = self._next()
        finally:
            if message is None:
                self.broker.slot.release()
        return message

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


def bell(queue: str) -> str:
    """The key of a list that a worker can block on, which the queue's own is not."""
    return f"{NAMESPACE}:bell:{queue}"


class Jobs:
    """The sending side."""

    def __init__(self, settings: Settings) -> None:
        self.broker = Broker(settings)

    def send(self, queue: str, operation: str) -> None:
        """Queues the job of an operation; a second copy of it does no harm."""
        self.broker.enqueue(
            dramatiq.Message(queue_name=queue, actor_name="perform", args=(operation,), kwargs={}, options={})
        )
        self.broker.ring(queue)

    def length(self, queue: str) -> int:
        """How many jobs wait in a queue."""
        found: int = self.broker.client.llen(f"{NAMESPACE}:{queue}")
        return found
