"""This replica's tail of the revocation log: one reader, however many watchers.

The log in SQL is the truth. A wake-up (a write in this process) makes the tail read at once; without one it reads
every `poll_interval` anyway, so a wake-up that is lost costs latency and nothing else.

Two promises, from which the sidecars' lease follows:

- `read_after_now` returns only after a read that *began* after the call. All rows up to the revision that it
  returns have been put into every subscription before.
- A subscription receives every row after its starting revision, in order and without gaps, or it is closed.

Shared state (position, subscriptions, waiters) is touched by the event loop only. Memory is bounded: a
subscription that holds more than `max_backlog` items is closed, and its watcher has to replay.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from flowless.domain.revocations import LogHead, Revocation
from flowless.ports.stores import RevocationLog
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.errors import Reason, TrustError

PAGE: Final = 1000
_NEVER: Final = -(2**63)


@dataclass(frozen=True, slots=True)
class Pong:
    """Put into a subscription by its watcher: after everything up to `revision`."""

    nonce: int
    revision: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """This replica is about to stop."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody waits until this revision is applied everywhere; every row up to it was put before."""

    revision: int


Item = Revocation | Pong | GoAway | Asked


class Membership(Protocol):
    """This replica's place in the table of replicas; see `barriers`."""

    @property
    def asked(self) -> int:
        """The revision up to which somebody waits."""
        ...

    async def join(self) -> None:
        """Make this replica known. Raises what storage raises."""
        ...

    def on_read(self, *, revision: int, barrier_revision: int) -> bool:
        """Note how far the log was read and passed on; says whether watchers are to be asked."""
        ...

    def start_over(self) -> None:
        """Forget revisions: they were of another log."""
        ...


class Subscription:
    """What one watcher still has to be told, in order. Made by `RevocationTail.subscribe`."""

    def __init__(self, *, bridge_id: str, start: LogHead, max_backlog: int) -> None:
        self.bridge_id = bridge_id
        self.start = start
        self._max_backlog = max_backlog
        self._items: deque[Item] = deque()
        self._ready = asyncio.Event()
        self._closed: TrustError | None = None
        self._cut: Callable[[], None] | None = None

    def cut_when_closed(self, *, after_seconds: float) -> None:
        """Cancel the calling task if it goes on that long after the subscription was closed."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        if task is None:
            return

        def later() -> None:
            timer = loop.call_later(after_seconds, task.cancel)
            task.add_done_callback(lambda _: timer.cancel())

        self._cut = later
        if self._closed is not None:
            later()

    def put(self, item: Item) -> None:
        """Append; closes the subscription when it holds too much."""
        if self._closed is not None:
            return
        if len(self._items) >= self._max_backlog:
            self.close(TrustError(Reason.DRAINING, "this watcher fell behind; open a new stream and replay"))
            return
        self._items.append(item)
        self._ready.set()

    def close(self, error: TrustError) -> None:
        """End the subscription: what it still holds is dropped and `take` raises the error."""
        if self._closed is None:
            self._closed = error
            self._items.clear()
            self._ready.set()
            if self._cut is not None:
                self._cut()

    async def take(self) -> list[Item]:
        """Wait for items and take all of them, at most one page; raise what the subscription was closed with."""
        await self._ready.wait()
        if self._closed is not None:
            raise self._closed
        taken = [self._items.popleft() for _ in range(min(len(self._items), PAGE))]
        if not self._items:
            self._ready.clear()
        return taken


class RevocationTail:
    """See the module. Call `start` once, `run` in a task, and `stop` at the end."""

    def __init__(
        self,
        *,
        log: RevocationLog,
        membership: Membership,
        clock: Clock,
        poll_interval: float,
        min_spacing: float,
        max_subscriptions: int,
        max_subscriptions_per_bridge: int,
        max_backlog: int = 20_000,
    ) -> None:
        self._log = log
        self._membership = membership
        self._clock = clock
        self._poll_interval = poll_interval
        self._min_spacing = min_spacing
        self._max_subscriptions = max_subscriptions
        self._max_subscriptions_per_bridge = max_subscriptions_per_bridge
        self._by_bridge: Counter[str] = Counter()
        self._max_backlog = max_backlog
        self._position = LogHead(log_id="", revision=0, compacted_through=0)
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[LogHead]] = []
        self._subscriptions: dict[Subscription, None] = {}  # a set with an order, so that runs can be repeated
        self._listeners: list[Callable[[Revocation], None]] = []
        self._start_over_listeners: list[Callable[[LogHead], None]] = []
        self._read_began_ns = 0
        self._storage_answered_ns = 0
        self._draining = False
        self.reads = 0
        self.failing = False

    @property
    def position(self) -> LogHead:
        """The end of the log as this replica has last read it."""
        return self._position

    @property
    def watchers(self) -> int:
        """How many subscriptions are open."""
        return len(self._subscriptions)

    @property
    def read_began_ns(self) -> int:
        """When the read began that found the present position, by `Clock.elapsed_ns`: how old our knowledge is."""
        return self._read_began_ns

    @property
    def storage_answered_ns(self) -> int:
        """When the last read began that storage answered, whatever it said, by `Clock.elapsed_ns`."""
        return self._storage_answered_ns

    def when_started_over(self, listener: Callable[[LogHead], None]) -> None:
        """Call the listener, in the event loop, when rows were missed or the log is another one."""
        self._start_over_listeners.append(listener)

    def listen(self, listener: Callable[[Revocation], None]) -> None:
        """Call the listener with every row from now on, in the event loop, before any watcher is told."""
        self._listeners.append(listener)

    def wake(self) -> None:
        """Read soon: the log was written. Call from the event loop."""
        self._wake.set()

    async def start(self) -> None:
        """Take position at the log's end. Raises what storage raises."""
        began_ns = self._clock.elapsed_ns()
        self._position = await self._log.head()
        self._storage_answered_ns = began_ns
        # Who waits for all sidecars has to know of this replica before it believes anything of Redis.
        self._read_began_ns = began_ns if self._position.member else _NEVER

    async def run(self) -> None:
        """Tail the log until cancelled. Storage that fails is retried at the polling interval."""
        last = self._clock.elapsed_ns()
        while True:
            try:
                async with asyncio.timeout(self._poll_interval):
                    await self._wake.wait()
            except TimeoutError:
                pass
            # A floor under the time between two reads: pings of a thousand sidecars cost no more than one's.
            spacing = self._min_spacing - (self._clock.elapsed_ns() - last) / NS_PER_SECOND
            if spacing > 0:
                await asyncio.sleep(spacing)
            last = self._clock.elapsed_ns()
            self._wake.clear()
            # Taken before the read begins: these callers are promised a read that began after their call.
            waiters, self._waiters = self._waiters, []
            try:
                await self._read()
            except TrustError as error:
                self.failing = True
                _settle(waiters, error)
                await asyncio.sleep(self._poll_interval)
            except BaseException:
                _settle(waiters, TrustError(Reason.STORAGE_UNAVAILABLE, "this replica no longer reads the log"))
                raise
            else:
                self.failing = False
                _settle(waiters, self._position)

    async def read_after_now(self) -> LogHead:
        """Return the log's end as of a read that began after this call. Raises what storage raises."""
        waiter: asyncio.Future[LogHead] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        try:
            return await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def subscribe(self, *, bridge_id: str) -> Subscription:
        """Begin a subscription at the present position; every later row goes into it.

        Errors: TOO_MANY_CALLS, DRAINING.
        """
        if self._draining:
            raise TrustError(Reason.DRAINING, "this replica is about to stop; connect to another")
        if len(self._subscriptions) >= self._max_subscriptions:
            raise TrustError(Reason.TOO_MANY_CALLS, "this replica serves no more watch streams; connect to another")
        if self._by_bridge[bridge_id] >= self._max_subscriptions_per_bridge:
            raise TrustError(
                Reason.TOO_MANY_CALLS, "this replica serves no more watch streams of this bridge; connect to another"
            )
        subscription = Subscription(bridge_id=bridge_id, start=self._position, max_backlog=self._max_backlog)
        self._subscriptions[subscription] = None
        self._by_bridge[bridge_id] += 1
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscription; does nothing when it is forgotten already."""
        if subscription not in self._subscriptions:
            return
        del self._subscriptions[subscription]
        self._by_bridge[subscription.bridge_id] -= 1
        if not self._by_bridge[subscription.bridge_id]:
            del self._by_bridge[subscription.bridge_id]

    def drain(self) -> None:
        """Tell every watcher to go elsewhere and take no new ones."""
        self._draining = True
        for subscription in self._subscriptions:
            subscription.put(GoAway())

    async def _read(self) -> None:
        self.reads += 1
        began_ns = self._clock.elapsed_ns()
        head = await self._log.head()
        self._storage_answered_ns = began_ns
        if not head.member:
            # Nobody who waits for all sidecars would know of ours.
            await self._membership.join()
            began_ns = self._clock.elapsed_ns()
            head = await self._log.head()
            if not head.member:
                raise TrustError(Reason.STORAGE_UNAVAILABLE, "this replica cannot make itself known; retry")
        if head.log_id != self._position.log_id or head.revision < self._position.revision:
            self._start_over(head, began_ns)
            return
        while self._position.revision < head.revision:
            rows = await self._log.after(self._position.revision, until=head.revision, limit=PAGE)
            if not rows or rows[0].revision != self._position.revision + 1:
                self._start_over(head, began_ns)
                return
            for row in rows:
                self._publish(row)
            self._position = LogHead(
                log_id=head.log_id, revision=rows[-1].revision, compacted_through=head.compacted_through
            )
        self._position = head
        self._read_began_ns = began_ns
        if self._membership.on_read(revision=head.revision, barrier_revision=head.barrier_revision):
            for subscription in self._subscriptions:
                subscription.put(Asked(self._membership.asked))

    def _publish(self, row: Revocation) -> None:
        for listener in self._listeners:
            listener(row)
        for subscription in list(self._subscriptions):
            if row.subject == "bridge" and row.key == subscription.bridge_id:
                # Rotated or revoked: the watcher has to authenticate again, which a revoked bridge cannot.
                subscription.close(TrustError(Reason.DRAINING, "this bridge changed; open a new stream"))
            else:
                subscription.put(row)

    def _start_over(self, head: LogHead, began_ns: int) -> None:
        """Another log, or rows that we missed are gone: nobody can be told what happened, so everybody replays."""
        for subscription in list(self._subscriptions):
            subscription.close(TrustError(Reason.DRAINING, "the log cannot be followed; open a new stream"))
        self._membership.start_over()
        for listener in self._start_over_listeners:
            listener(head)
        self._position = head
        self._read_began_ns = began_ns


def _settle(waiters: list[asyncio.Future[LogHead]], outcome: LogHead | TrustError) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if isinstance(outcome, TrustError):
            waiter.set_exception(outcome)
        else:
            waiter.set_result(outcome)
