"""When to leave a service alone that does not answer, and when to try it again. Pure: the clock is brought in."""

from typing import Final

from trust_core.clock import NS_PER_SECOND, Clock

FAILURES_TO_OPEN: Final = 3
FIRST_PAUSE_NS: Final = NS_PER_SECOND // 2
LAST_PAUSE_NS: Final = 5 * NS_PER_SECOND


class Breaker:
    """Closed: every call may go. Open: none, for a pause that grows up to a cap. Then one call is a probe.

    A probe that succeeds closes it, one that fails opens it again. Touched by one event loop.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._pause_ns = FIRST_PAUSE_NS
        self._open_until_ns: int | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls are skipped, but for probes."""
        return self._open_until_ns is not None

    def allows(self) -> bool:
        """Whether a call may go. Who is allowed says how it went, by `succeeded` or `failed`."""
        if self._open_until_ns is None:
            return True
        if self._probing or self._clock.elapsed_ns() < self._open_until_ns:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """Note an answer in time."""
        self._failures = 0
        self._pause_ns = FIRST_PAUSE_NS
        self._open_until_ns = None
        self._probing = False

    def failed(self) -> None:
        """Note an answer that did not come, or not in time."""
        self._failures += 1
        if self._probing:
            self._pause_ns = min(2 * self._pause_ns, LAST_PAUSE_NS)
        elif self._open_until_ns is not None or self._failures < FAILURES_TO_OPEN:
            return  # a call from before it opened, or one failure among others
        self._probing = False
        self._open_until_ns = self._clock.elapsed_ns() + self._pause_ns
