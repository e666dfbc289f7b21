"""A session from the nearest tier that may be believed: Redis, then the database. Fills go the other way.

A hit in Redis counts only if all of this holds:

1. The caller takes an answer that is a little old, and this replica began to read the log's end no longer ago; nor
   longer ago than who waits for all sidecars would wait for this replica.
2. No revocation that this replica has read touches the session after the revision at which the entry was true.
3. The answer reaches the revision that the caller demands: it is as good as the end of the log that (2) was checked
   against. An entry from beyond that end is not believed.
4. The session is active. Whatever else an entry says is asked of the database: use of a session writes no row.

So Redis may lose, hold back, repeat or invent what it likes, and no revoked session is served.

Shared state: the work under way in the background, touched by the event loop only. It is bounded; what is too much
is not done. A cancelled caller leaves it alone.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from flowless.domain.revocations import LogHead, Revocation
from flowless.domain.sessions import ActiveSession, SessionLimits, SessionRead, judge
from flowless.ports.session_tier import SessionTier
from flowless.ports.stores import SessionStore
from flowless.services.recent_revocations import RecentRevocations
from trust_core.clock import NS_PER_SECOND, Clock

_MAX_BACKGROUND: Final = 256
_FILL_WITHIN_NS: Final = 2 * NS_PER_SECOND
"""A fill that comes later is not made, so that tombstones, which live longer, outlive every fill in flight."""


@dataclass(frozen=True, slots=True)
class TierRead:
    """What is known of a session, and whether the tier knew it or the database."""

    read: SessionRead
    from_tier: bool


class SessionReads(Protocol):
    """Where validations read sessions."""

    async def read(self, digest: bytes, *, min_revision: int, max_staleness_ns: int) -> TierRead:
        """Read a session. Raises what storage raises."""
        ...


class DatabaseReads:
    """Reads of the database alone."""

    def __init__(self, *, store: SessionStore) -> None:
        self._store = store

    async def read(self, digest: bytes, *, min_revision: int, max_staleness_ns: int) -> TierRead:
        """See `SessionReads`."""
        return TierRead(await self._store.read(digest), from_tier=False)


class Tail(Protocol):
    """What is asked of this replica's tail of the log."""

    @property
    def position(self) -> LogHead:
        """The end of the log as last read."""
        ...

    @property
    def read_began_ns(self) -> int:
        """When the read began that found this position, by `Clock.elapsed_ns`."""
        ...


class SessionTiers:
    """See the module."""

    def __init__(
        self,
        *,
        store: SessionStore,
        tier: SessionTier,
        recent: RecentRevocations,
        tail: Tail,
        limits: SessionLimits,
        max_ttl_seconds: float,
        longest_staleness_ns: Callable[[], int],
        clock: Clock,
    ) -> None:
        """`longest_staleness_ns`: whoever waits for all sidecars waits so long for this replica (see `barriers`)."""
        self._longest_staleness_ns = longest_staleness_ns
        self._store = store
        self._tier = tier
        self._recent = recent
        self._tail = tail
        self._limits = limits
        self._max_ttl_seconds = max_ttl_seconds
        self._clock = clock
        self._background: set[asyncio.Task[None]] = set()
        self.dropped = 0

    async def read(self, digest: bytes, *, min_revision: int, max_staleness_ns: int) -> TierRead:
        """See `SessionReads`."""
        if not self._tier.enabled:
            return TierRead(await self._store.read(digest), from_tier=False)
        if max_staleness_ns > 0:
            found = await self._from_tier(digest, min_revision, max_staleness_ns)
            if found is not None:
                return TierRead(found, from_tier=True)
        log_id = self._tail.position.log_id
        began_ns = self._clock.elapsed_ns()
        read = await self._store.read(digest)
        if read.session is not None:
            self._soon(self._fill(digest, read, log_id, began_ns))
        return TierRead(read, from_tier=False)

    async def _from_tier(self, digest: bytes, min_revision: int, max_staleness_ns: int) -> SessionRead | None:
        arrived_ns = self._clock.elapsed_ns()
        log_id = self._tail.position.log_id
        entry = await self._tier.get(digest, log_id=log_id)
        if entry is None or entry.user is None:
            return None
        # From here on there is no await: all of it is checked against one state of the tail.
        position = self._tail.position
        revision = position.revision
        believed = (
            position.log_id == log_id
            and arrived_ns - self._tail.read_began_ns <= min(max_staleness_ns, self._longest_staleness_ns())
            and revision >= min_revision
            # Ahead of what this replica has read: it lags, or the database was restored and the entry knows a future.
            and entry.revision <= position.revision
            and self._recent.reflects(digest=digest, user_id=entry.user.id, revision=entry.revision)
            and isinstance(judge(entry, now=self._clock.now(), limits=self._limits), ActiveSession)
        )
        return replace(entry, revision=revision) if believed else None

    async def _fill(self, digest: bytes, read: SessionRead, log_id: str, began_ns: int) -> None:
        active = judge(read, now=self._clock.now(), limits=self._limits)
        if not isinstance(active, ActiveSession) or self._clock.elapsed_ns() - began_ns > _FILL_WITHIN_NS:
            return
        same_log = log_id == self._tail.position.log_id
        if same_log and self._recent.reflects(digest=digest, user_id=active.user.id, revision=read.revision):
            # `idle_remaining` is never longer than what is left until absolute expiry.
            ttl = min(active.idle_remaining.total_seconds(), self._max_ttl_seconds)
            await self._tier.fill(digest, read, log_id=log_id, ttl_seconds=ttl)

    def on_revocation(self, row: Revocation) -> None:
        """Bury the session of a row. A user's sessions cannot be found by their user; `recent` refuses them."""
        if row.subject == "session" and self._tier.enabled:
            log_id = self._tail.position.log_id
            self._soon(self._tier.bury(bytes.fromhex(row.key), row.revision, log_id=log_id))

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._background) >= _MAX_BACKGROUND:
            self.dropped += 1
            work.close()
            return
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """Cancel what is under way, and close the tier."""
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._tier.close()
