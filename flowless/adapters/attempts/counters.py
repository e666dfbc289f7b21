"""Counters over a storage of the `limits` library; and two of them, this replica's own and those in common.

Failure policy: every attempt is counted in this replica's memory, and, if that lets it pass, in Redis where there is
one; it passes when both say so. What Redis does not answer in time, memory decides alone. So when Redis goes, is
flushed or evicts, an attacker gains at most the budget of each further replica; nobody is refused because Redis is
away, and nothing is ever without a limit.
"""

import asyncio
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any, Final

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter

from flowless.adapters.attempts.memory import MAX_ENTRIES, BoundedMemoryStorage
from flowless.adapters.redis.calls import MAX_CONNECTIONS, CallStats, RedisCalls
from flowless.adapters.redis.connect import Client
from flowless.domain.attempts import Hit, Limit
from trust_core.clock import Clock
from trust_core.tracing import Tracer

TIMEOUT_SECONDS: Final = 0.1
"""How long one count waits for Redis. Longer than the tier's: beside a password hash it is little, and a count that
only this replica knows of is worth less."""


class _Item(RateLimitItemPerSecond):
    """A limit whose counter keeps its name when a deployment changes its amount, or a wait its length."""

    __slots__ = ()

    def key_for(self, *identifiers: bytes | str | int | float) -> str:
        """See the base."""
        return "/".join([self.namespace, *map(str, identifiers)])


def _item(limit: Limit) -> RateLimitItem:
    return _Item(limit.amount, limit.seconds, namespace=limit.name)


class RedisAttemptStorage(RedisStorage):
    """The library's storage, over a client of ours: one server, a master that Sentinels know, or a Cluster."""

    def __init__(self, *, client: Client) -> None:
        self._client = client
        super().__init__("async+redis://", implementation="redispy", key_prefix="tl:a")

    def configure_bridge(self) -> None:
        """Use the client instead of making one from a URL."""
        bridge: Any = self.bridge
        bridge.storage = self._client
        bridge.connection_getter = lambda _: self._client


class StorageCounters:
    """See `flowless.ports.attempts.AttemptCounters`; over one storage, whose exceptions it lets through."""

    def __init__(self, *, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._limiter = FixedWindowRateLimiter(storage)
        self._clock = clock

    async def hit(self, limit: Limit, key: str, *, cost: int = 1) -> Hit:
        """See the port."""
        item = _item(limit)
        if await self._limiter.hit(item, key, cost=cost):
            return Hit(within=True, seconds_left=0)
        left = await self._storage.get_expiry(item.key_for(key)) - self._clock.now().timestamp()
        return Hit(within=False, seconds_left=min(max(1, ceil(left)), limit.seconds))

    async def count(self, limit: Limit, key: str) -> int:
        """See the port."""
        return await self._storage.get(_item(limit).key_for(key))

    async def clear(self, limit: Limit, key: str) -> None:
        """See the port."""
        await self._limiter.clear(_item(limit), key)


class LocalCounters:
    """Counters of this replica alone, in memory; for a deployment without Redis the only ones.

    Each limit has a storage of its own, so that what is known for a month, or a flood of accounts, does not push
    out what is counted by the minute. The names of limits are the program's, never made of what callers send.
    Shared state: the storages, touched by the event loop only; the metrics thread reads their lengths.
    """

    alone = False

    def __init__(self, *, clock: Clock, max_entries: int = MAX_ENTRIES) -> None:
        """`max_entries` is the bound for each limit."""
        self._clock = clock
        self._max_entries = max_entries
        self._storages: dict[str, BoundedMemoryStorage] = {}
        self._counters: dict[str, StorageCounters] = {}

    @property
    def kept(self) -> int:
        """See the port."""
        return sum(len(storage) for storage in tuple(self._storages.values()))

    @property
    def evicted(self) -> int:
        """See the port."""
        return sum(storage.evicted for storage in tuple(self._storages.values()))

    async def hit(self, limit: Limit, key: str, *, cost: int = 1) -> Hit:
        """See the port."""
        return await self._of(limit).hit(limit, key, cost=cost)

    async def count(self, limit: Limit, key: str) -> int:
        """See the port."""
        return await self._of(limit).count(limit, key)

    async def clear(self, limit: Limit, key: str) -> None:
        """See the port."""
        await self._of(limit).clear(limit, key)

    def _of(self, limit: Limit) -> StorageCounters:
        counters = self._counters.get(limit.name)
        if counters is None:
            storage = BoundedMemoryStorage(clock=self._clock, max_entries=self._max_entries)
            counters = StorageCounters(storage=storage, clock=self._clock)
            self._storages[limit.name], self._counters[limit.name] = storage, counters
        return counters

    async def close(self) -> None:
        """See the port."""


class SharedCounters:
    """Counters in Redis, in common with other replicas, beside `LocalCounters`: see the module.

    Shared state: the places for calls under way, touched by the event loop only.
    """

    def __init__(
        self,
        *,
        client: Client,
        local: LocalCounters,
        clock: Clock,
        timeout_seconds: float = TIMEOUT_SECONDS,
        tracer: Tracer | None = None,
    ) -> None:
        self._local = local
        self._shared = StorageCounters(storage=RedisAttemptStorage(client=client), clock=clock)
        self._timeout_seconds = timeout_seconds
        self._places = asyncio.Semaphore(MAX_CONNECTIONS // 2)
        self.stats = CallStats()
        self._calls = RedisCalls(
            client=client,
            stats=self.stats,
            timeout_seconds=timeout_seconds,
            clock=clock,
            instead="each replica counts attempts alone",
            tracer=tracer,
        )

    @property
    def alone(self) -> bool:
        """See the port."""
        return self._calls.breaker_open

    @property
    def kept(self) -> int:
        """See the port."""
        return self._local.kept

    @property
    def evicted(self) -> int:
        """See the port."""
        return self._local.evicted

    async def hit(self, limit: Limit, key: str, *, cost: int = 1) -> Hit:
        """See the port."""
        local = await self._local.hit(limit, key, cost=cost)
        if not local.within and cost > 0:
            return local
        answered, shared = await self._ask("count an attempt", lambda: self._shared.hit(limit, key, cost=cost))
        return shared if answered else local

    async def count(self, limit: Limit, key: str) -> int:
        """See the port."""
        local = await self._local.count(limit, key)
        answered, shared = await self._ask("read a count", lambda: self._shared.count(limit, key))
        return max(local, shared) if answered else local

    async def clear(self, limit: Limit, key: str) -> None:
        """See the port."""
        await self._local.clear(limit, key)
        await self._ask("clear a count", lambda: self._shared.clear(limit, key))

    async def close(self) -> None:
        """See the port."""
        await self._calls.close()

    async def _ask(self, name: str, command: Callable[[], Awaitable[Any]]) -> tuple[bool, Any]:
        """Ask Redis, after a short wait for a place: a burst is not a reason to count alone."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._places.acquire()
        except TimeoutError:
            self.stats.skipped += 1
            return False, None
        try:
            return await self._calls.within(name, command)
        finally:
            self._places.release()
