"""The Redis tier: versioned fills, tombstones, a bound on every wait, and a breaker.

Each session is a hash of Redis: `r`, the revision at which it was true, and `p`, the sealed payload. A tombstone has
`r` alone. One script writes both, and never over something of a later revision. `r` only keeps order among fills;
what is believed is the revision inside the seal.

How long Redis is waited for, and when it is left alone, is in `calls.py`. Shared state: the counters, touched by the
event loop only.
"""

from dataclasses import dataclass
from typing import Any, Final

from flowless.adapters.redis.calls import CallStats, RedisCalls
from flowless.adapters.redis.connect import Client
from flowless.adapters.redis.payload import PayloadSealer
from flowless.domain.sessions import SessionRead
from trust_core import logs
from trust_core.clock import Clock
from trust_core.tracing import Tracer

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
class TierStats(CallStats):
    """Counts since the start. `rejected`: entries that were not ours or not for their place."""

    hits: int = 0
    misses: int = 0
    rejected: int = 0
    fills: int = 0


class RedisSessionTier:
    """See `flowless.ports.session_tier.SessionTier`, and the module."""

    enabled = True

    def __init__(
        self,
        *,
        client: Client,
        sealer: PayloadSealer,
        timeout_seconds: float,
        clock: Clock,
        tracer: Tracer | None = None,
    ) -> None:
        self._client: Any = client  # its stubs cannot say what a command returns
        self._sealer = sealer
        self._log: Any = logs.get_logger("flowless")
        self.stats = TierStats()
        self._calls = RedisCalls(
            client=client,
            stats=self.stats,
            timeout_seconds=timeout_seconds,
            clock=clock,
            instead="the database is asked",
            tracer=tracer,
        )

    @property
    def breaker_open(self) -> bool:
        """Whether Redis is left alone for now."""
        return self._calls.breaker_open

    async def get(self, digest: bytes, *, log_id: str) -> SessionRead | None:
        """See the port."""
        done, sealed = await self._calls.within("HGET", lambda: self._client.hget(_key(digest, log_id), "p"))
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
        await self._calls.close()

    async def _write(self, key: str, *arguments: object) -> tuple[bool, Any]:
        return await self._calls.within("EVAL", lambda: self._client.eval(_WRITE, 1, key, *arguments))


def _key(digest: bytes, log_id: str) -> str:
    return f"tl:{log_id}:s:{digest.hex()}"
