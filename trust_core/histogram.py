"""How long did things take: counts in fixed buckets. Pure, and cheap enough for the sidecar's hit path.

Not prometheus_client's own: that costs several microseconds and a lock for each observation, and memory where nobody
asked for metrics.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

_US: Final = 1_000
_MS: Final = 1_000 * _US

VALIDATION_BOUNDS_NS: Final = (
    *(50 * _US, 100 * _US, 250 * _US, 500 * _US),
    *(_MS, 2_500 * _US, 5 * _MS, 10 * _MS, 25 * _MS, 50 * _MS, 100 * _MS, 250 * _MS, 500 * _MS, 1_000 * _MS),
)
"""From a hit in memory to the longest that anybody waits for Flowless."""
CALL_BOUNDS_NS: Final = (*VALIDATION_BOUNDS_NS[3:], 2_500 * _MS, 5_000 * _MS, 10_000 * _MS)
"""From a read of Redis to a login that waits for its hash."""


class Reading(NamedTuple):
    """What a histogram held at one moment: counts by bucket, the last for all that took longer, and their sum."""

    counts: tuple[int, ...]
    sum_ns: int


class Histogram:
    """Written by one event loop. Another thread may read it: a reading may then lack what is being written."""

    __slots__ = ("_counts", "_first_ns", "_sum_ns", "bounds_ns")

    def __init__(self, bounds_ns: Sequence[int] = VALIDATION_BOUNDS_NS) -> None:
        """`bounds_ns`: the upper bounds of the buckets, inclusive, ascending; one more bucket holds the rest."""
        self.bounds_ns = tuple(bounds_ns)
        self._first_ns = self.bounds_ns[0]
        self._counts = [0] * (len(self.bounds_ns) + 1)
        self._sum_ns = 0

    def record(self, duration_ns: int) -> None:
        """Count one."""
        # Hits are in the first bucket, and a search for it would be most of what they pay for being counted.
        self._counts[0 if duration_ns <= self._first_ns else bisect_left(self.bounds_ns, duration_ns)] += 1
        self._sum_ns += duration_ns

    def read(self) -> Reading:
        """Read what was counted."""
        return Reading(tuple(self._counts), self._sum_ns)
