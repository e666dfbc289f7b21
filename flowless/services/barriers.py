"""A revoke that waits: from when on does no sidecar answer ACTIVE, whichever replica it watches.

Two halves, joined by the table of replicas. No clock of another machine is compared with ours.

*Acknowledging.* Whoever waits raises `barrier_revision` in the log's head. Each replica sees it at its next read of
the head, after the rows up to it, and asks its watchers. It acknowledges a revision once it has read the log up to
there and each of its watchers has applied it or can no longer answer from its cache (`watchers`).

*Waiting.* A replica that does not acknowledge, because it is gone or hangs, need not be waited for longer than
`longest_staleness` after the revoke was stored: no lease that it gave before lasts longer, with a margin for clocks
that do not run alike, and none that it gives after can leave the revoke out, since it reads the log's end first.

So it must be certain that every replica which gives leases stands in the table:

- a replica answers no ping, and believes nothing of Redis, by a read of the head in whose snapshot it is not a
  member: not in the table, doubted by another, or there with a report that is older than its last;
- who finds another's record unchanged for `DOUBT_AFTER_SECONDS` of its own time doubts it, and forgets it after
  another `longest_staleness`, in which the doubted one, if it runs at all, has reported itself or given no leases.

Shared state: what is asked, who waits; touched by the event loop only. Who waits is bounded by the calls in flight;
one reader of the table serves them all.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from flowless.domain.replicas import (
    SHORTEST_STALENESS,
    Acknowledgement,
    BarrierOutcome,
    ReplicaRecord,
    ReplicaReport,
    with_margin,
)
from flowless.ports.replicas import ReplicaRegistry
from flowless.services.watchers import Watchers
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.errors import TrustError

BEAT_SECONDS: Final = 5.0
DOUBT_AFTER_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.01
_RETRY_SECONDS: Final = 0.2
_MICROSECOND: Final = timedelta(microseconds=1)


def _ns(duration: timedelta) -> int:
    return duration // _MICROSECOND * 1_000


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody who waits for a revision that was stored before `stored_ns`."""

    revision: int
    stored_ns: int
    done: asyncio.Future[BarrierOutcome]
    last: BarrierOutcome


@dataclass(slots=True)
class _Seen:
    """What was last seen of another replica, and since when by our own clock."""

    beat: int
    doubted: bool
    since_ns: int


class Barriers:
    """See the module. `run` acknowledges and reports; `wait` waits."""

    def __init__(
        self, *, registry: ReplicaRegistry, watchers: Watchers, clock: Clock, replica_id: str, name: str
    ) -> None:
        self._registry = registry
        self._watchers = watchers
        self._clock = clock
        self._id = replica_id
        self._name = name
        self._revision = 0
        self._asked = 0
        self._acknowledged = 0
        self._acknowledging = 0
        self._registered_ns = 0
        self._confirmed_beat = 0
        self._beat = 0
        self._changed = asyncio.Event()
        self._reporting = asyncio.Lock()
        self._waiters: list[_Waiter] = []
        self._looking: asyncio.Task[None] | None = None
        self._seen: dict[str, _Seen] = {}
        self.outcomes = {"reached": 0, "not_reached": 0}
        watchers.when_changed(self._changed.set)

    @property
    def asked(self) -> int:
        """The revision up to which acknowledgement is asked for, as this replica knows."""
        return self._asked

    @property
    def confirmed_beat(self) -> int:
        """The last report that storage has confirmed: a record from before it says nothing of this replica."""
        return self._confirmed_beat

    @property
    def longest_staleness_ns(self) -> int:
        """What others know that they have to wait for this replica: nothing older may be relied on here."""
        return self._registered_ns

    # Being a member.

    async def join(self) -> None:
        """Write this replica's record. Raises what storage raises."""
        await self._report(0)

    async def leave(self) -> None:
        """Let the others forget this replica soon. Call when it answers nobody any more; never raises."""
        with suppress(TrustError):
            await self._registry.doubt(self._id, beat=self._beat)

    async def admit(self, staleness: timedelta) -> None:
        """Make known that a watcher may rely on this replica for that long, before it does.

        Raises what storage raises. How long a watcher may ask for is the caller's business.
        """
        if _ns(staleness) > self._registered_ns:
            await self._report(_ns(staleness))

    async def _report(self, at_least_ns: int) -> None:
        async with self._reporting:
            now_ns = self._clock.elapsed_ns()
            needed_ns = max(at_least_ns, self._watchers.longest_staleness_ns(now_ns), _ns(SHORTEST_STALENESS))
            watching, watchers = self._watchers.reports(self._revision, now_ns)
            self._beat += 1
            report = ReplicaReport(
                id=self._id,
                name=self._name,
                beat=self._beat,
                revision=self._revision,
                longest_staleness=timedelta(microseconds=with_margin(needed_ns) // 1_000),
                watching=watching,
                watchers=watchers,
            )
            # Lowered before it is written and raised after: nothing here outlasts what the others know.
            self._registered_ns = min(self._registered_ns, needed_ns)
            if await self._registry.report(report):
                self._start_acknowledging_anew()
            self._registered_ns = needed_ns
            self._confirmed_beat = report.beat

    # Acknowledging.

    def on_read(self, *, revision: int, barrier_revision: int) -> bool:
        """Note that the tail has read and passed on the log so far; says whether watchers are to be asked."""
        self._revision = revision
        due = min(barrier_revision, revision)
        if due <= self._asked:
            return False
        self._asked = due
        self._changed.set()
        return True

    def start_over(self) -> None:
        """Forget revisions: the log is another one, or cannot be followed."""
        self._asked = self._revision = 0
        self._watchers.start_over()
        self._start_acknowledging_anew()

    def _start_acknowledging_anew(self) -> None:
        """Begin from nothing: the record is new, or of another log. What is being acknowledged now counts no more."""
        self._acknowledged = 0
        self._acknowledging += 1
        self._changed.set()

    async def run(self) -> None:
        """Acknowledge, report this replica and look after the others, until cancelled; retry what storage refuses."""
        await asyncio.gather(self._acknowledge_forever(), self._beat_forever())

    async def _acknowledge_forever(self) -> None:
        while True:
            self._changed.clear()
            pause: float | None = None
            if self._asked > self._acknowledged:
                try:
                    pause = await self._acknowledge()
                except TrustError:
                    pause = _RETRY_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def _acknowledge(self) -> float | None:
        """Acknowledge what can be; return for how many seconds nothing can change but by a watcher's word."""
        now_ns = self._clock.elapsed_ns()
        standing = self._watchers.standing(now_ns)
        reached = self._asked if standing.settled is None else min(self._asked, standing.settled)
        if reached > self._acknowledged:
            applied = self._watchers.count_applied(reached, now_ns)
            acknowledging = self._acknowledging
            await self._registry.acknowledge(
                self._id, Acknowledgement(revision=reached, applied=applied, expired=standing.expired)
            )
            if acknowledging == self._acknowledging:
                self._acknowledged = reached
        if self._acknowledged >= self._asked or standing.next_end_ns is None:
            return None
        return max(0.0, standing.next_end_ns - self._clock.elapsed_ns()) / NS_PER_SECOND

    async def _beat_forever(self) -> None:
        while True:
            with suppress(TrustError):
                await self._look_after_others()
            await asyncio.sleep(BEAT_SECONDS)
            with suppress(TrustError):
                await self._report(0)

    async def _look_after_others(self) -> None:
        found = await self._registry.list(with_watchers=False)
        records = [record for record in found if record.report.id != self._id]
        now_ns = self._clock.elapsed_ns()
        seen = {record.report.id: self._look_at(record, now_ns) for record in records}
        self._seen = seen
        for record in records:
            unchanged_ns = now_ns - seen[record.report.id].since_ns
            if not record.doubted and unchanged_ns >= DOUBT_AFTER_SECONDS * NS_PER_SECOND:
                await self._registry.doubt(record.report.id, beat=record.report.beat)
            elif record.doubted and unchanged_ns >= _ns(record.report.longest_staleness):
                await self._registry.remove(record.report.id, beat=record.report.beat)

    def _look_at(self, record: ReplicaRecord, now_ns: int) -> _Seen:
        seen = self._seen.get(record.report.id)
        if seen is not None and (seen.beat, seen.doubted) == (record.report.beat, record.doubted):
            return seen
        return _Seen(record.report.beat, record.doubted, now_ns)

    # Waiting.

    async def wait(self, revision: int, *, timeout_seconds: float) -> BarrierOutcome:
        """Wait until no sidecar answers ACTIVE for what was revoked up to `revision`, which is stored already.

        Never raises but for cancellation: the revoke is done, and whether it is known everywhere is the answer.
        """
        stored_ns = self._clock.elapsed_ns()
        nobody_yet = BarrierOutcome(reached=False, applied=0, expired=0, waiting=0)
        waiter = _Waiter(revision, stored_ns, asyncio.get_running_loop().create_future(), nobody_yet)
        outcome: BarrierOutcome | None = None
        with suppress(TimeoutError, TrustError):
            async with asyncio.timeout(timeout_seconds):
                await self._registry.ask(revision)
                self._waiters.append(waiter)
                self._look_soon()
                try:
                    outcome = await waiter.done
                finally:
                    self._waiters.remove(waiter)
        self.outcomes["not_reached" if outcome is None else "reached"] += 1
        return waiter.last if outcome is None else outcome

    def _look_soon(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_until_nobody_waits())

    async def _look_until_nobody_waits(self) -> None:
        while self._waiters:
            # Taken before the read begins: a record written after somebody's revoke was stored must not be missed.
            waiters = list(self._waiters)
            try:
                records = [self._as_of_now(record) for record in await self._registry.list(with_watchers=False)]
            except TrustError:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            now_ns = self._clock.elapsed_ns()
            for waiter in waiters:
                waiter.last = standing_of(records, waiter.revision, waited_ns=now_ns - waiter.stored_ns)
                if waiter.last.reached and not waiter.done.done():
                    waiter.done.set_result(waiter.last)
            await asyncio.sleep(_LOOK_SECONDS)

    def _as_of_now(self, record: ReplicaRecord) -> ReplicaRecord:
        """Count our own watchers afresh; those of the others are as they last reported."""
        if record.report.id != self._id:
            return record
        watching = self._watchers.count(self._clock.elapsed_ns())
        return replace(record, report=replace(record.report, watching=watching))

    async def close(self) -> None:
        """Stop looking; who waits still sees its time run out."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def replicas(self) -> Sequence[ReplicaRecord]:
        """List all replicas with their watchers, this one as it is now. Raises what storage raises."""
        with suppress(TrustError):
            await self._report(0)
        return await self._registry.list()


def standing_of(records: Sequence[ReplicaRecord], revision: int, *, waited_ns: int) -> BarrierOutcome:
    """Judge the table, read after a revoke was stored, `waited_ns` after that."""
    applied = expired = waiting = 0
    reached = True
    for record in records:
        if record.acknowledged.revision >= revision:
            applied += record.acknowledged.applied
            expired += record.acknowledged.expired
        elif waited_ns >= _ns(record.report.longest_staleness):
            expired += record.report.watching
        else:
            waiting += record.report.watching
            reached = False
    return BarrierOutcome(reached=reached, applied=applied, expired=expired, waiting=waiting)
