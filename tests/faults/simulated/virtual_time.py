"""An event loop whose clock moves only when nobody has anything to do now: the same way each time, in no time.

Nothing here waits for the outside. A loop that has nothing left to wait for says so instead of hanging.
"""

import asyncio
import selectors
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self, TypeVar

from trust_core.clock import NS_PER_SECOND

T = TypeVar("T")
_START: Final = datetime(2030, 1, 1, tzinfo=UTC)


class _NoSelector(selectors.SelectSelector):
    """Instead of waiting for sockets, lets the time pass that the loop would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits for something that never comes")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._virtual = _NoSelector()
        super().__init__(self._virtual)

    def _make_self_pipe(self) -> None:
        """Nothing comes from other threads, so nothing has to wake the loop: no sockets, many loops."""

    def _close_self_pipe(self) -> None:
        """There is none."""

    def _write_to_self(self) -> None:
        """There is nobody to wake: what is asked for from elsewhere (a collected generator) waits for its turn."""

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[Self]:
        """Make one that is the thread's event loop during the block."""
        loop = cls()
        asyncio.set_event_loop(loop)
        try:
            yield loop
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual.now


def run(loop: VirtualLoop, work: Coroutine[Any, Any, T]) -> T:
    """Run the work to its end, and end what it left behind."""
    try:
        return loop.run_until_complete(work)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())


class VirtualClock:
    """The clocks of one machine: one starts anywhere, the other may be set. See `trust_core.clock.Clock`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, offset_seconds: float = 0.0) -> None:
        self._loop = loop
        self._offset_seconds = offset_seconds
        self.wall_seconds = 0.0

    def elapsed_ns(self) -> int:
        return round((self._loop.time() + self._offset_seconds) * NS_PER_SECOND)

    def now(self) -> datetime:
        return _START + timedelta(seconds=self._loop.time() + self.wall_seconds)
