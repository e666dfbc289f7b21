"""Calls of Redis that nobody waits for longer than a bound: a timeout, a breaker, a limit on what is under way.

No caller waits longer than the timeout, whatever Redis does. A command that takes longer goes on by itself to its
own end (about a second) and is not cut off in the middle of an answer, which could leave the next caller with the
rest of it; and a connection that is slow to open (TLS) is there for the next call. How many are under way is bounded;
beyond that, Redis is skipped.

Shared state: the set of running commands, the breaker and the counters, touched by the event loop only.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from flowless.adapters.redis.breaker import Breaker
from flowless.adapters.redis.connect import Client, disconnect
from trust_core import logs
from trust_core.clock import Clock
from trust_core.tracing import Span, Tracer

MAX_CONNECTIONS: Final = 64


@dataclass(slots=True)
class CallStats:
    """Counts since the start of calls that gave no answer: refused or broken, too late, not made."""

    failures: int = 0
    slow: int = 0
    skipped: int = 0


def _end_span(span: Span, task: "asyncio.Task[tuple[bool, Any]]") -> None:
    span.end(failed=task.cancelled() or not task.result()[0])


class RedisCalls:
    """See the module. Owns the client and closes it."""

    def __init__(
        self,
        *,
        client: Client,
        stats: CallStats,
        timeout_seconds: float,
        clock: Clock,
        instead: str,
        tracer: Tracer | None = None,
    ) -> None:
        """`instead` says in the log what happens while Redis is left alone."""
        self._tracer = tracer
        self._client = client
        self._stats = stats
        self._timeout_seconds = timeout_seconds
        self._instead = instead
        self._breaker = Breaker(clock=clock)
        self._running: set[asyncio.Task[tuple[bool, Any]]] = set()
        self._log: Any = logs.get_logger("flowless")

    @property
    def breaker_open(self) -> bool:
        """Whether Redis is left alone for now."""
        return self._breaker.is_open

    async def within(self, name: str, command: Callable[[], Awaitable[Any]]) -> tuple[bool, Any]:
        """Run a command; whether it answered in time, and what. `name` is what a trace calls it."""
        if len(self._running) >= MAX_CONNECTIONS or not self._breaker.allows():
            self._stats.skipped += 1
            return False, None
        span = None
        if self._tracer is not None:
            span = self._tracer.child(f"redis {name}", {"db.system.name": "redis", "db.operation.name": name})
        task = asyncio.ensure_future(self._run(command()))
        if span is not None:
            # It ends with the command, which may be later than its caller waits, or be cancelled at the end of all.
            task.add_done_callback(partial(_end_span, span))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.wait({task}, timeout=self._timeout_seconds)
        if task.done():
            return task.result()
        self._stats.slow += 1
        self._note(succeeded=False)
        return False, None

    async def close(self) -> None:
        """Drop what is under way and close every connection."""
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        try:
            async with asyncio.timeout(1.0):
                await disconnect(self._client)
        except (RedisError, OSError, TimeoutError):
            pass  # it is gone either way

    async def _run(self, command: Awaitable[Any]) -> tuple[bool, Any]:
        began = asyncio.get_running_loop().time()
        try:
            result = await command
        except ResponseError:
            # It answers, but not this: full, read-only, loading, a key of another kind.
            self._stats.failures += 1
            ok = False
        except Exception as error:  # noqa: BLE001 - this is the boundary: whatever the client fails with is no answer
            if not isinstance(error, RedisError | OSError | TimeoutError):
                self._log.error("the Redis client failed unexpectedly", **logs.describe_exception(error))
            self._stats.failures += 1
            self._note(succeeded=False)
            return False, None
        else:
            ok = True
        if asyncio.get_running_loop().time() - began <= self._timeout_seconds:
            self._note(succeeded=True)
        return ok, result if ok else None

    def _note(self, *, succeeded: bool) -> None:
        was_open = self._breaker.is_open
        if succeeded:
            self._breaker.succeeded()
        else:
            self._breaker.failed()
        if self._breaker.is_open != was_open:
            said = "Redis answers again" if was_open else f"Redis is left alone for a while; {self._instead}"
            self._log.warning(said)
