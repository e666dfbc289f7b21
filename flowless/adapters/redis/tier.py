"""The Redis tier: versioned fills, tombstones, a bound on every wait, and a breaker.

Each session is a hash of Redis: `r`, the revision at which it was true, and `p`, the sealed payload. A tombstone has
`r` alone. One script writes both, and never over something of a later revision. `r` only keeps order among fills;
what is believed is the revision inside the seal.

No caller waits longer than the timeout, whatever Redis does. A command that takes longer goes on by itself to its
own end (about a second) and is not cut off in the middle of an answer, which could leave the next caller with the
rest of it; and a connection that is slow to open (TLS) is there for the next call. How many are under way is bounded;
beyond that, Redis is skipped.

Shared state: the set of running commands, the breaker and the counters, touched by the event loop only.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from flowless.adapters.redis.breaker import Breaker
from flowless.adapters.redis.connect import Client, disconnect
from flowless.adapters.redis.payload import PayloadSealer
from flowless.domain.sessions import SessionRead
from trust_core import logs
from trust_core.clock import Clock

MAX_CONNECTIONS: Final = 64
TOMBSTONE_SECONDS: Final = 60
"""Longer than any fill can be under way: see `SessionTiers`, and the client's own limits."""

# What it writes first is something that a full Redis refuses: after any other write it would let the rest in.
_WRITE: Final = """
local held = redis.call('HGET', KEYS[1], 'r')
if held then
  local newer = tonumber(held) > tonumber(ARGV[1])
  local tombstone = tonumber(held) == tonumber(ARGV[1]) and redis.call('HEXISTS', KEYS[1], 'p') == 0
  if newer or tombstone then return 0 end
end
if ARGV[3] then
  redis.call('HSET', KEYS[1], 'r', ARGV[1], 'p', ARGV[3])
else
  redis.call('HSET', KEYS[1], 'r', ARGV[1])
  redis.call('HDEL', KEYS[1], 'p')
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""


@dataclass(slots=True)
class TierStats:
    """Counts since the start. `rejected`: entries that were not ours or not for their place."""

    hits: int = 0
    misses: int = 0
    rejected: int = 0
    fills: int = 0
    failures: int = 0
    slow: int = 0
    skipped: int = 0


class RedisSessionTier:
    """See `flowless.ports.session_tier.SessionTier`, and the module."""

    enabled = True

    def __init__(self, *, client: Client, sealer: PayloadSealer, timeout_seconds: float, clock: Clock) -> None:
        self._client: Any = client  # its stubs cannot say what a command returns
        self._sealer = sealer
        self._timeout_seconds = timeout_seconds
        self._breaker = Breaker(clock=clock)
        self._running: set[asyncio.Task[Any]] = set()
        self._log: Any = logs.get_logger("flowless")
        self.stats = TierStats()

    @property
    def breaker_open(self) -> bool:
        """Whether Redis is left alone for now."""
        return self._breaker.is_open

    async def get(self, digest: bytes, *, log_id: str) -> SessionRead | None:
        """See the port."""
        done, sealed = await self._within(lambda: self._client.hget(_key(digest, log_id), "p"))
        if not done:
            return None
        if not isinstance(sealed, bytes):
            self.stats.misses += 1
            return None
        read = self._sealer.open(sealed, digest=digest, log_id=log_id)
        if read is None:
            self.stats.rejected += 1
            self._log.warning("an entry of the Redis tier is not ours; the database is asked")
        else:
            self.stats.hits += 1
        return read

    async def fill(self, digest: bytes, read: SessionRead, *, log_id: str, ttl_seconds: float) -> None:
        """See the port."""
        milliseconds = int(ttl_seconds * 1000)
        if milliseconds > 0:
            sealed = self._sealer.seal(read, digest=digest, log_id=log_id)
            done, _ = await self._write(_key(digest, log_id), read.revision, milliseconds, sealed)
            self.stats.fills += done

    async def bury(self, digest: bytes, revision: int, *, log_id: str) -> None:
        """See the port."""
        await self._write(_key(digest, log_id), revision, TOMBSTONE_SECONDS * 1000)

    async def close(self) -> None:
        """See the port."""
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        try:
            async with asyncio.timeout(1.0):
                await disconnect(self._client)
        except (RedisError, OSError, TimeoutError):
            pass  # it is gone either way

    async def _write(self, key: str, *arguments: object) -> tuple[bool, Any]:
        return await self._within(lambda: self._client.eval(_WRITE, 1, key, *arguments))

    async def _within(self, command: Any) -> tuple[bool, Any]:
        """Run a command; whether it answered in time, and what."""
        if len(self._running) >= MAX_CONNECTIONS or not self._breaker.allows():
            self.stats.skipped += 1
            return False, None
        task: asyncio.Task[tuple[bool, Any]] = asyncio.ensure_future(self._run(command()))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.wait({task}, timeout=self._timeout_seconds)
        if task.done():
            return task.result()
        self.stats.slow += 1
        self._note(succeeded=False)
        return False, None

    async def _run(self, command: Awaitable[Any]) -> tuple[bool, Any]:
        began = asyncio.get_running_loop().time()
        try:
            result = await command
        except ResponseError:
            # It answers, but not this: full, read-only, loading, a key of another kind.
            self.stats.failures += 1
            ok = False
        except Exception as error:  # noqa: BLE001 - this is the boundary: whatever the client fails with is a miss
            if not isinstance(error, RedisError | OSError | TimeoutError):
                self._log.error("the Redis client failed unexpectedly", **logs.describe_exception(error))
            self.stats.failures += 1
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
            said = "Redis answers again" if was_open else "Redis is left alone for a while; the database is asked"
            self._log.warning(said)


def _key(digest: bytes, log_id: str) -> str:
    return f"tl:{log_id}:s:{digest.hex()}"
