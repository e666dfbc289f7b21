"""Replicas of Flowless and who watches them, as storage knows it: what a revoke that waits for all sidecars asks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

SHORTEST_STALENESS: Final = timedelta(seconds=2)
"""What a replica is waited for at least, watched or not: it may answer from Redis as of that long ago."""
LONGEST_STALENESS: Final = timedelta(seconds=600)
"""What a watcher may ask to be waited for."""
MAX_REPORTED: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WatcherReport:
    """One watcher as its replica reports it. `silent_for` is absent when it never pinged."""

    bridge_id: str
    instance: str
    applied_revision: int
    silent_for: timedelta | None
    max_staleness: timedelta
    connected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReport:
    """What a replica says of itself.

    Nobody who got an answer from it, directly or by a lease, relies on anything older than `longest_staleness`.
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
    """A replica as storage holds it. `doubted`: it may be gone."""

    report: ReplicaReport
    doubted: bool
    acknowledged: Acknowledgement


@dataclass(frozen=True, slots=True, kw_only=True)
class BarrierOutcome:
    """Where the sidecars stood when waiting for them ended."""

    reached: bool
    applied: int
    expired: int
    waiting: int
