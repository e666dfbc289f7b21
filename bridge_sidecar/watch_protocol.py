"""What does each message of the revocation watch mean for the cache and the lease? Pure: time is brought in.

One `WatchProtocol` lives as long as one stream. It trusts nothing that it can check: rows must be gapless, a pong
must answer a ping of this stream, must not claim a revision that was not delivered before it, and must not fall
behind what was applied when its ping was sent: that replica reads a database that lags or went back in time.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from bridge_sidecar.lease import Lease
from bridge_sidecar.session_cache import GapError, Revocation, SessionCache

_MAX_OUTSTANDING: Final = 64


class ProtocolViolationError(Exception):
    """Upstream said something that cannot be. The text is ours and safe to log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTiming:
    """How often to ping, and how long silence may last before the stream counts as deaf."""

    ping_interval_ns: int
    max_silence_ns: int


@dataclass(slots=True)
class WatchFigures:
    """What operators are shown of the watch, over all streams since start. Nothing is decided by it.

    No other machine's clock is in it. A row that is applied after a pong is not in what that pong vouched for, so it
    was written after the pong's ping had been sent: what has passed since then bounds what the row can have taken.
    """

    last_revocation_within_ns: int | None = None
    """Bound of the time from when the newest applied row was written to when its batch was taken in hand; requests
    that came later found it applied. `None`: no row yet, or no ping had been answered on its stream."""
    round_trip_ns: int | None = None
    """From the sending of a ping to its pong; the newest. `None`: no pong yet."""


class Ping(NamedTuple):
    """What to send."""

    nonce: int
    applied_revision: int


class _Sent(NamedTuple):
    """A ping under way: own time of sending, and what was applied then."""

    at_ns: int
    applied_revision: int


class WatchProtocol:
    """See the module."""

    def __init__(
        self, *, cache: SessionCache, lease: Lease, timing: WatchTiming, figures: WatchFigures, opened_at_ns: int
    ) -> None:
        """`figures` outlives the stream."""
        self._cache = cache
        self._lease = lease
        self._timing = timing
        self._figures = figures
        self._answered_ping_ns: int | None = None
        self._opened_at_ns = opened_at_ns
        self._ready = False
        self._nonce = 0
        self._next_ping_ns = opened_at_ns
        self._outstanding: OrderedDict[int, _Sent] = OrderedDict()
        self._asked = False
        self.live = False

    def on_ready(self, *, log_id: str, reset: bool, revision: int) -> None:
        """Take the log's name. Another log, or one that cannot be replayed, empties the cache and ends the lease."""
        if self._ready:
            raise ProtocolViolationError("a second WatchReady")
        if not log_id:
            raise ProtocolViolationError("WatchReady names no log")
        if reset or log_id != self._cache.log_id:
            self._cache.reset(log_id=log_id, revision=revision)
            self._lease.drop()
        elif revision != self._cache.applied_revision:
            raise ProtocolViolationError("replay does not begin where this sidecar stopped")
        self._ready = True

    def on_batch(self, revocations: Iterable[Revocation], *, now_ns: int) -> None:
        """Apply rows in their order."""
        if not self._ready:
            raise ProtocolViolationError("revocations before WatchReady")
        before = self._cache.applied_revision
        for revocation in revocations:
            try:
                self._cache.apply(revocation)
            except GapError as gap:
                raise ProtocolViolationError(f"a gap in the log: {gap}") from None
        if self._cache.applied_revision != before:
            sent_ns = self._answered_ping_ns
            self._figures.last_revocation_within_ns = None if sent_ns is None else now_ns - sent_ns

    def on_pong(self, *, nonce: int, revision: int, now_ns: int) -> None:
        """Renew the lease from when the ping was sent, provided everything up to the pong's revision is applied."""
        if not self._ready or nonce not in self._outstanding:
            raise ProtocolViolationError("a pong without its ping")
        if self._cache.applied_revision < revision:
            raise ProtocolViolationError("a pong ahead of the revocations it vouches for")
        sent = self._outstanding[nonce]
        if revision < sent.applied_revision:
            raise ProtocolViolationError("a pong behind what was applied when its ping was sent")
        while next(iter(self._outstanding)) != nonce:
            self._outstanding.popitem(last=False)
        del self._outstanding[nonce]
        self._lease.renew(sent.at_ns)
        self._answered_ping_ns = sent.at_ns
        self._figures.round_trip_ns = now_ns - sent.at_ns
        self.live = True

    def on_barrier(self) -> None:
        """Note that somebody waits until the rows so far are applied; they are: what comes is taken in at once."""
        if not self._ready:
            raise ProtocolViolationError("a barrier before WatchReady")
        self._asked = True

    def take_confirmation(self) -> int | None:
        """Return the revision to confirm, once for each time that it was asked for."""
        if not self._asked:
            return None
        self._asked = False
        return self._cache.applied_revision

    def ping_due(self, now_ns: int) -> Ping | None:
        """Return a ping to send now, if one is due; its sending counts from `now_ns`."""
        if not self._ready or now_ns < self._next_ping_ns or len(self._outstanding) >= _MAX_OUTSTANDING:
            return None
        self._nonce += 1
        self._outstanding[self._nonce] = _Sent(now_ns, self._cache.applied_revision)
        self._next_ping_ns = now_ns + self._timing.ping_interval_ns
        return Ping(self._nonce, self._cache.applied_revision)

    def _deaf_at_ns(self) -> int:
        if not self._ready:
            return self._opened_at_ns + self._timing.max_silence_ns
        oldest = next(iter(self._outstanding.values()), None)
        return (self._next_ping_ns if oldest is None else oldest.at_ns) + self._timing.max_silence_ns

    def deaf(self, now_ns: int) -> bool:
        """Whether WatchReady, or the answer to some ping, is overdue. Its lease would have run out by now."""
        return now_ns >= self._deaf_at_ns()

    def wait_ns(self, now_ns: int) -> int:
        """How long the stream may be left alone when nothing arrives."""
        due = self._deaf_at_ns()
        if self._ready and len(self._outstanding) < _MAX_OUTSTANDING:
            due = min(due, self._next_ping_ns)
        return max(0, due - now_ns)
