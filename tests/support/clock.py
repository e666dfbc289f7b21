"""A clock that moves when a test moves it."""

from datetime import UTC, datetime, timedelta

from trust_core.clock import NS_PER_SECOND, SystemClock


class FakeClock:
    """See `trust_core.clock.Clock`. Both clocks stand still until `advance`."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._elapsed_ns = 1_000 * NS_PER_SECOND

    def elapsed_ns(self) -> int:
        return self._elapsed_ns

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._elapsed_ns += round(seconds * NS_PER_SECOND)
        self._now += timedelta(seconds=seconds)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP does; no time passes."""
        self._now += timedelta(seconds=seconds)


class AheadClock(SystemClock):
    """The machine's clock and the time that a test adds, for parts that also wait for real."""

    def __init__(self) -> None:
        self._ahead_ns = 0

    def elapsed_ns(self) -> int:
        return super().elapsed_ns() + self._ahead_ns

    def advance(self, seconds: float) -> None:
        """Let time pass at once."""
        self._ahead_ns += round(seconds * NS_PER_SECOND)
