"""A storage of the `limits` library in this process' memory, with a bound and a clock that is brought in.

The library's own keeps every key until a sweep that looks at all of them, begun by each hit: a flood of distinct
keys costs memory without end and time that grows with it. Here both are bounded: an entry costs its own place in a
heap, and when there are too many, the one that would expire soonest goes. Where all last equally long, that is the
oldest: what holds counters of several kinds gives each kind a storage of its own.

Shared state: the entries, touched by one event loop only; no method waits for anything.
"""

import heapq
from dataclasses import dataclass
from typing import Final

from limits.aio.storage import Storage

from trust_core.clock import NS_PER_SECOND, Clock

MAX_ENTRIES: Final = 50_000
_SLACK: Final = 2


@dataclass(slots=True)
class _Entry:
    value: int
    expires_ns: int


class BoundedMemoryStorage(Storage):
    """See the module, and `limits.aio.storage.Storage`."""

    STORAGE_SCHEME = None

    def __init__(self, *, clock: Clock, max_entries: int = MAX_ENTRIES) -> None:
        super().__init__()
        self._clock = clock
        self._max_entries = max_entries
        self._entries: dict[str, _Entry] = {}
        # May hold moments of entries that have gone or begun anew meanwhile; they are passed over.
        self._expiries: list[tuple[int, str]] = []
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """See the base; nothing here fails."""
        return ValueError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """See the base: the time runs from the first count."""
        entry = self._live(key)
        if entry is None:
            self._make_room()
            entry = _Entry(0, self._clock.elapsed_ns() + expiry * NS_PER_SECOND)
            self._entries[key] = entry
            heapq.heappush(self._expiries, (entry.expires_ns, key))
        entry.value = max(0, entry.value + amount)
        return entry.value

    async def get(self, key: str) -> int:
        """See the base."""
        entry = self._live(key)
        return 0 if entry is None else entry.value

    async def get_expiry(self, key: str) -> float:
        """See the base: wall-clock time."""
        entry = self._live(key)
        left_ns = 0 if entry is None else entry.expires_ns - self._clock.elapsed_ns()
        return self._clock.now().timestamp() + left_ns / NS_PER_SECOND

    async def clear(self, key: str) -> None:
        """See the base."""
        self._entries.pop(key, None)
        self._tidy()

    async def check(self) -> bool:
        """See the base."""
        return True

    async def reset(self) -> int | None:
        """See the base."""
        gone = len(self._entries)
        self._entries.clear()
        self._expiries.clear()
        return gone

    def _live(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.expires_ns <= self._clock.elapsed_ns():
            del self._entries[key]
            return None
        return entry

    def _make_room(self) -> None:
        now_ns = self._clock.elapsed_ns()
        while self._expiries and (self._expiries[0][0] <= now_ns or len(self._entries) >= self._max_entries):
            expires_ns, key = heapq.heappop(self._expiries)
            entry = self._entries.get(key)
            if entry is None or entry.expires_ns != expires_ns:
                continue
            del self._entries[key]
            self.evicted += expires_ns > now_ns

    def _tidy(self) -> None:
        """Make the heap anew when most of it is of entries that went: who clears often does not fill memory."""
        if len(self._expiries) > _SLACK * len(self._entries) + 1_000:
            self._expiries = [(entry.expires_ns, key) for key, entry in self._entries.items()]
            heapq.heapify(self._expiries)
