"""A cache that is warm before the first question: the sessions that this bridge used last, as Flowless knows them.

Once, when the first lease is held: the watch is live then, and the log is known. What arrives is as sound as a miss.
It carries the revision read in the same snapshot, it goes through the cache's own guard with a ticket from before the
question, and its deadlines count from when the question was sent. A revocation that comes later finds the entry and
removes it; one that came before keeps it out.

Nothing waits for it longer than its bound, and whatever it fails with costs warmth only. No snapshot is kept on disk:
it would be a session store without an owner.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple, Protocol

from bridge_sidecar.session_cache import Entry, SessionCache, weight
from bridge_sidecar.validator import ActiveSession, Counters, entry_of
from trust_core import logs
from trust_core.clock import Clock
from trust_core.errors import Reason, TrustError

PREWARM_SECONDS: Final = 2.0
_CHUNK: Final = 200


class PrewarmedSession(NamedTuple):
    """One session, as true at `revision`."""

    digest: bytes
    active: ActiveSession
    revision: int


class PrewarmSource(Protocol):
    """Who is asked."""

    def prewarm(self, limit: int, *, timeout_seconds: float) -> AsyncIterator[PrewarmedSession]:
        """Stream sessions, most recently used first. Raises `TrustError`."""
        ...


class Prewarm:
    """See the module."""

    def __init__(
        self, *, source: PrewarmSource, cache: SessionCache, counters: Counters, clock: Clock, limit: int
    ) -> None:
        """`limit` 0: not at all."""
        self._source = source
        self._cache = cache
        self._counters = counters
        self._clock = clock
        self._limit = limit
        self._log: Any = logs.get_logger("bridge-sidecar")

    async def run(self) -> None:
        """Fill the cache; returns after `PREWARM_SECONDS` at the latest, and never fails."""
        if self._limit <= 0:
            return
        ticket = self._cache.ticket()
        sent_at_ns = self._clock.elapsed_ns()
        found = [
            (session.digest, entry_of(session.active, revision=session.revision, sent_at_ns=sent_at_ns))
            for session in await self._ask()
        ]
        # The most recently used comes last, and so is the last to make way for others.
        for number, (digest, entry) in enumerate(reversed(self._that_fit(found)), start=1):
            kept = self._cache.fill(ticket, digest, entry, self._clock.elapsed_ns())
            self._counters.prewarmed += kept
            if number % _CHUNK == 0:
                await asyncio.sleep(0)  # questions go first
        self._log.info("prewarmed", sessions=self._counters.prewarmed)

    def _that_fit(self, found: list[tuple[bytes, Entry]]) -> list[tuple[bytes, Entry]]:
        room = self._cache.free_bytes
        fit = []
        for digest, entry in found[: self._cache.free_entries]:
            room -= weight(entry)
            if room < 0:
                break
            fit.append((digest, entry))
        return fit

    async def _ask(self) -> list[PrewarmedSession]:
        found: list[PrewarmedSession] = []
        try:
            async with asyncio.timeout(PREWARM_SECONDS):
                async for session in self._source.prewarm(self._limit, timeout_seconds=PREWARM_SECONDS):
                    found.append(session)
                    if len(found) >= self._limit:
                        break
        except TimeoutError:
            self._log.info("prewarming took too long; what came is kept", sessions=len(found))
        except TrustError as error:
            if error.reason is not Reason.NOT_IMPLEMENTED:  # an older Flowless
                self._log.warning("the cache starts cold", why=error.message)
        except Exception as error:  # noqa: BLE001 - a cold cache is no reason not to serve
            self._log.error("prewarming failed unexpectedly", **logs.describe_exception(error))
        return found
