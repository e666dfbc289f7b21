"""Replicas of Flowless and who watches them, as storage knows it: what a revoke that waits for all sidecars asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

SHORTEST_STALENESS: Final = timedelta(seconds=2)
"""What a replica is waited for at least, watched or not: it may answer from Redis as of that long ago."""
LONGEST_STALENESS: Final = timedelta(seconds=600)
"""What a watcher may ask to be waited for at most; an operator may allow less."""
MAX_REPORTED: Final = 100
MAX_DENIAL_REASONS: Final = 64
"""What is kept of one sidecar's denials: several times as many as there are reasons."""
MAX_COUNT: Final = 2**63 - 1


def with_margin(nanoseconds: int) -> int:
    """Lengthen a time that is counted on one machine and waited for on another: their clocks need not run alike.

    A tenth: time services slew a clock by less (ntpd by 500 ppm, chrony by 8.3 % unless told otherwise).
    """
    return nanoseconds + nanoseconds // 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarFigures:
    """What a sidecar said of itself: counts since it started, which was `uptime` ago. Nothing is decided by it.

    `lease_age`: since the ping was sent that its lease runs from; absent when there is none. `denials` by the number
    of the reason, of which a newer sidecar may know more.
    """

    uptime: timedelta
    lease_held: bool
    lease_age: timedelta | None
    cached_sessions: int
    hits: int
    misses: int
    unavailable: int
    answers_beyond_lease: int
    denials: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatcherReport:
    """One watcher as its replica reports it. Absent: `silent_for` before a ping, `figures` if it sends none."""

    bridge_id: str
    instance: str
    applied_revision: int
    silent_for: timedelta | None
    max_staleness: timedelta
    connected: bool
    figures: SidecarFigures | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReport:
    """What a replica says of itself.

    Nobody who got an answer from it, directly or by a lease, relies on anything older than `longest_staleness`, which
    has the margin for another machine's clock in it.
    `watching` counts all watchers, `watchers` holds those that are furthest behind. `beat` counts its reports: one
    that is overtaken on the way changes nothing.
    """

    id: str
    name: str
    beat: int
    revision: int
    longest_staleness: timedelta
    watching: int
    watchers: Sequence[WatcherReport]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """Up to this revision, this replica and all of its watchers have applied the log or can answer from no cache."""

    revision: int
    applied: int
    expired: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRecord:
    """A replica as storage holds it. `doubted`: it may be gone.

    `reported_ago` is by storage's own clock, for people to look at; absent when an older Flowless wrote it.
    """

    report: ReplicaReport
    doubted: bool
    acknowledged: Acknowledgement
    reported_ago: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BarrierOutcome:
    """Where the sidecars stood when waiting for them ended."""

    reached: bool
    applied: int
    expired: int
    waiting: int
