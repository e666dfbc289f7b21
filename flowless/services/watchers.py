"""Who watches this replica, how far is each, until when may each still answer from its cache? Pure: time comes in.

A watcher's lease runs from when it *sent* a ping, so it ends no later than `max_staleness` after that ping *arrived*,
by this replica's own clock and with a margin for what the two clocks' rates differ by. A watcher that has left is
remembered until then: it may be answering from its cache under the lease that it got here. One that comes back under
the same `watcher_id` is the same watcher.

One event loop touches this. Bounded: as many watchers as there may be streams, and as many that have left; the
rest of those is remembered as one, by the latest end of their leases.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, NamedTuple

from flowless.domain.replicas import MAX_REPORTED, SidecarFigures, WatcherReport, with_margin

_NEVER: Final = -(2**63)
_US: Final = 1_000


@dataclass(slots=True, kw_only=True, eq=False)
class Watcher:
    """One watcher. `pinged_at_ns` is when its last ping arrived here; `_NEVER` before the first."""

    bridge_id: str
    instance: str
    watcher_id: str
    staleness_ns: int
    applied_revision: int
    log: int
    """Which of the logs that this replica has followed its revisions are of."""
    pinged_at_ns: int = field(default=_NEVER)
    connected: bool = True
    figures: SidecarFigures | None = None
    """What it told of itself last."""

    @property
    def end_ns(self) -> int:
        """When it can certainly no longer answer from its cache by a lease that it got here."""
        return self.pinged_at_ns + with_margin(self.staleness_ns)

    @property
    def key(self) -> tuple[str, str | int]:
        """What it is known by: without an id of its own, nobody can come back as it."""
        return self.bridge_id, self.watcher_id or id(self)

    def take_over(self, other: "Watcher") -> None:
        """Answer for the lease of the same watcher's other stream as well."""
        self.pinged_at_ns = max(self.pinged_at_ns, other.pinged_at_ns)
        self.staleness_ns = max(self.staleness_ns, other.staleness_ns)
        self.figures = other.figures

    def may_answer(self, now_ns: int) -> bool:
        """Whether it may still answer from its cache by a lease that it got here."""
        return now_ns < self.end_ns


class Standing(NamedTuple):
    """Where the watchers are: all that may answer have applied the log up to `settled`, or `None` if none may."""

    settled: int | None
    expired: int
    next_end_ns: int | None
    """When the next lease of those that are behind the others ends; `None` if no watcher may answer."""


class Watchers:
    """See the module."""

    def __init__(self, *, max_departed: int = 2_000) -> None:
        self._max_departed = max_departed
        self._connected: dict[tuple[str, str | int], Watcher] = {}
        self._departed: OrderedDict[tuple[str, str | int], Watcher] = OrderedDict()
        self._log = 0
        self._forgotten_end_ns = _NEVER
        self._forgotten_staleness_ns = 0
        self._listeners: list[Callable[[], None]] = []

    def when_changed(self, listener: Callable[[], None]) -> None:
        """Call the listener whenever a watcher has applied more of the log, or has left."""
        self._listeners.append(listener)

    def arrive(
        self, *, bridge_id: str, instance: str, watcher_id: str, staleness_ns: int, applied_revision: int
    ) -> Watcher:
        """Note a new stream. `applied_revision` is what its cache has applied of this log, 0 if of another."""
        watcher = Watcher(
            bridge_id=bridge_id,
            instance=instance,
            watcher_id=watcher_id,
            staleness_ns=staleness_ns,
            applied_revision=applied_revision,
            log=self._log,
        )
        for known in (self._departed, self._connected):
            before = known.pop(watcher.key, None)
            if before is not None:
                watcher.take_over(before)
        self._connected[watcher.key] = watcher
        return watcher

    def pinged(self, watcher: Watcher, *, applied_revision: int, now_ns: int) -> bool:
        """Note a ping, when it arrives and before it is answered; says whether it may be answered.

        Not on a stream whose watcher has come by another one since, in whichever order the two really began: nobody
        would know of the lease.
        """
        if self._connected.get(watcher.key) is not watcher:
            return False
        watcher.pinged_at_ns = now_ns
        self.applied(watcher, applied_revision=applied_revision)
        return True

    def applied(self, watcher: Watcher, *, applied_revision: int) -> None:
        """Note how far a watcher has applied the log."""
        if applied_revision > watcher.applied_revision and watcher.log == self._log:
            watcher.applied_revision = applied_revision
            self._changed()

    def start_over(self) -> None:
        """Believe nothing of what was applied, nor what open streams say of it: it was another log."""
        self._log += 1
        for watcher in self._all():
            watcher.applied_revision = 0

    def leave(self, watcher: Watcher, *, now_ns: int) -> None:
        """Note the end of a stream; does nothing when the same watcher has another one already."""
        if self._connected.get(watcher.key) is not watcher:
            return
        del self._connected[watcher.key]
        watcher.connected = False
        if watcher.may_answer(now_ns):
            self._departed[watcher.key] = watcher
            while len(self._departed) > self._max_departed:
                _, oldest = self._departed.popitem(last=False)
                self._forgotten_end_ns = max(self._forgotten_end_ns, oldest.end_ns)
                self._forgotten_staleness_ns = max(self._forgotten_staleness_ns, oldest.staleness_ns)
        self._changed()

    def standing(self, now_ns: int) -> Standing:
        """Say how far those that may answer from a cache have come."""
        self._drop_ended(now_ns)
        settled: int | None = None
        expired = 0
        next_end_ns: int | None = None
        for watcher in self._all():
            if not watcher.may_answer(now_ns):
                expired += watcher.pinged_at_ns != _NEVER
                continue
            if settled is None or watcher.applied_revision < settled:
                settled, next_end_ns = watcher.applied_revision, watcher.end_ns
            elif watcher.applied_revision == settled and next_end_ns is not None:
                next_end_ns = min(next_end_ns, watcher.end_ns)
        if now_ns < self._forgotten_end_ns:
            settled, next_end_ns = 0, self._forgotten_end_ns
        return Standing(settled, expired, next_end_ns)

    def count(self, now_ns: int) -> int:
        """Count the connected and those that left and may answer still."""
        self._drop_ended(now_ns)
        return len(self._all())

    def count_applied(self, revision: int, now_ns: int) -> int:
        """Count those that may answer from a cache and have applied the log up to a revision."""
        return sum(watcher.applied_revision >= revision and watcher.may_answer(now_ns) for watcher in self._all())

    def longest_staleness_ns(self, now_ns: int) -> int:
        """Longest time that any of them may answer from its cache after a ping."""
        self._drop_ended(now_ns)
        longest = max((watcher.staleness_ns for watcher in self._all()), default=0)
        return max(longest, self._forgotten_staleness_ns) if now_ns < self._forgotten_end_ns else longest

    def reports(self, revision: int, now_ns: int) -> tuple[int, Sequence[WatcherReport]]:
        """Count all, and describe those that are furthest behind, the connected first among equals."""
        self._drop_ended(now_ns)
        everyone = sorted(
            self._all(),
            key=lambda w: (min(w.applied_revision, revision), not w.connected, w.instance),
        )
        return len(everyone), [_report(watcher, now_ns) for watcher in everyone[:MAX_REPORTED]]

    def furthest_behind(self, revision: int) -> int:
        """Tell how many revisions the connected watcher that has applied least is behind; 0 without watchers."""
        return max((max(0, revision - watcher.applied_revision) for watcher in self._connected.values()), default=0)

    def _all(self) -> tuple[Watcher, ...]:
        return (*self._connected.values(), *self._departed.values())

    def _drop_ended(self, now_ns: int) -> None:
        for key in [key for key, watcher in self._departed.items() if not watcher.may_answer(now_ns)]:
            del self._departed[key]

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()


def _report(watcher: Watcher, now_ns: int) -> WatcherReport:
    silent_ns = None if watcher.pinged_at_ns == _NEVER else max(0, now_ns - watcher.pinged_at_ns)
    return WatcherReport(
        bridge_id=watcher.bridge_id,
        instance=watcher.instance,
        applied_revision=watcher.applied_revision,
        silent_for=None if silent_ns is None else timedelta(microseconds=silent_ns // _US),
        max_staleness=timedelta(microseconds=watcher.staleness_ns // _US),
        connected=watcher.connected,
        figures=watcher.figures,
    )
