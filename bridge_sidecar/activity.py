"""Which sessions were used here, and does upstream know? Reported in batches, so that idle expiry slides.

A hit costs one dictionary entry. Every interval, and at once when a session that is being used is close to its
idle deadline, the sessions used since the last report are sent. The answer is the only thing that extends the idle
deadline of a cached entry, counted from when the report was sent.

A failed report is put back and sent with the next one; the table is bounded, and what does not fit is dropped and
counted: a lost report costs a user at worst an early idle expiry, never a late one.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from bridge_sidecar.session_cache import SessionCache
from trust_core import logs
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.errors import Reason, TrustError

BATCH: Final = 1_000
"""The most that `ReportActivity` takes."""
_SHORTEST_GAP_SECONDS: Final = 1.0


class SessionUse(NamedTuple):
    """A session, and how long before the report it was last used."""

    digest: bytes
    idle_for_ns: int


class SessionIdle(NamedTuple):
    """A session, and the time left until its idle expiry as upstream read it."""

    digest: bytes
    idle_remaining_ns: int


class ActivityReceiver(Protocol):
    """Who is told."""

    async def report_activity(self, uses: Sequence[SessionUse]) -> Sequence[SessionIdle]:
        """Report; answers with the sessions that are still active. Raises `TrustError`."""
        ...


class ActivityReporter:
    """See the module. `record` and `run` share one event loop."""

    def __init__(
        self,
        *,
        receiver: ActivityReceiver,
        cache: SessionCache,
        clock: Clock,
        interval_seconds: float,
        max_entries: int,
    ) -> None:
        self._receiver = receiver
        self._cache = cache
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._urgent_ns = round(2 * interval_seconds * NS_PER_SECOND)
        self._max_entries = max_entries
        self._last_used: dict[bytes, int] = {}
        self._urgent = asyncio.Event()
        self._log: Any = logs.get_logger("bridge-sidecar")
        self.dropped = 0
        self.failed_reports = 0

    @property
    def pending(self) -> int:
        """Sessions that wait to be reported."""
        return len(self._last_used)

    def record(self, digest: bytes, *, now_ns: int, idle_expires_at_ns: int) -> None:
        """Note that a session was used now."""
        if digest not in self._last_used and len(self._last_used) >= self._max_entries:
            self.dropped += 1
            return
        self._last_used[digest] = now_ns
        if idle_expires_at_ns - now_ns < self._urgent_ns:
            self._urgent.set()

    async def run(self) -> None:
        """Report until cancelled."""
        gap = min(_SHORTEST_GAP_SECONDS, self._interval_seconds)
        while True:
            await asyncio.sleep(gap)
            try:
                async with asyncio.timeout(self._interval_seconds - gap):
                    await self._urgent.wait()
            except TimeoutError:
                pass
            self._urgent.clear()
            await self.flush()

    async def flush(self) -> None:
        """Report everything that is pending, batch by batch; stops at the first failure and keeps the rest."""
        while self._last_used:
            batch = dict(list(self._last_used.items())[:BATCH])
            for digest in batch:
                del self._last_used[digest]
            if not await self._report(batch):
                return

    async def _report(self, batch: dict[bytes, int]) -> bool:
        sent_at_ns = self._clock.elapsed_ns()
        uses = [SessionUse(digest, max(0, sent_at_ns - used_at_ns)) for digest, used_at_ns in batch.items()]
        try:
            answers = await self._receiver.report_activity(uses)
        except TrustError as error:
            self.failed_reports += 1
            if error.reason is Reason.NOT_IMPLEMENTED:
                return True  # an older Flowless: idle expiry does not slide, and nothing else is wrong
            self._log.debug("activity report failed", reason=error.reason.value, sessions=len(batch))
            self._put_back(batch)
            return False
        for answer in answers:
            self._cache.extend_idle(answer.digest, sent_at_ns + answer.idle_remaining_ns)
        return True

    def _put_back(self, batch: dict[bytes, int]) -> None:
        for digest, used_at_ns in batch.items():
            if digest in self._last_used:
                continue
            if len(self._last_used) >= self._max_entries:
                self.dropped += 1
            else:
                self._last_used[digest] = used_at_ns
