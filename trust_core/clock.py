"""Time, injected. Nothing else in either program reads a clock.

Durations (leases, ages, timeouts that matter for the guarantee) use `elapsed_ns`, which counts time spent
suspended: a machine that wakes up must not believe that its lease still holds. A virtual machine whose *host* stops
it without telling it has no clock that could know; ARCHITECTURE.md lists that under what is not promised.
Wall-clock time is for people and for expiry dates, and is never compared with another machine's.
"""

import time
from datetime import UTC, datetime
from typing import Final, Protocol

NS_PER_SECOND: Final = 1_000_000_000


class Clock(Protocol):
    """What both programs need of time."""

    def elapsed_ns(self) -> int:
        """Nanoseconds since an arbitrary point; never goes back; counts suspend."""
        ...

    def now(self) -> datetime:
        """Wall-clock time, aware, UTC. May jump."""
        ...


class SystemClock:
    """The machine's clocks: CLOCK_BOOTTIME for durations where the platform has it (Linux)."""

    _CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    @property
    def source(self) -> str:
        """Name of the clock behind `elapsed_ns`; `flowless doctor` shows it."""
        return "CLOCK_BOOTTIME" if hasattr(time, "CLOCK_BOOTTIME") else "CLOCK_MONOTONIC"

    def elapsed_ns(self) -> int:
        """See `Clock.elapsed_ns`."""
        return time.clock_gettime_ns(self._CLOCK)

    def now(self) -> datetime:
        """See `Clock.now`."""
        return datetime.now(UTC)
