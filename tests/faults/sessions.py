"""Which sessions there are to ask about, and which to revoke next. Shared by all client threads; one lock.

A session's way: `doomed` (and asked about, so that it is in the caches) → `current`, while its revoke is under way →
`revoked`, and asked about for longer than the bound, so that a late yes would be seen. Some go on to be asked about
until the end of the run. Some are not asked about before they are `current`: their first question meets their revoke.
"""

import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from tests.faults.history import NS_PER_MS

_NEXT: Final = 24
"""So many of the doomed are asked about."""
_KEPT: Final = 60
_KEEP_EVERY: Final = 5
_CURRENT: Final = 8


@dataclass(slots=True)
class Account:
    """A user."""

    user_id: str
    email: str
    usable: bool = True
    """One whose revoke failed is not logged in again: that revoke may happen at any later time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """What one call revokes: a session by its handle, or with an account, all sessions of it."""

    session_ids: tuple[str, ...]
    handle: str = ""
    account: Account | None = None


@dataclass(slots=True)
class Sessions:
    """See the module."""

    retention_ns: int
    """How long after its revoke a session is asked about at least."""
    live: list[str] = field(default_factory=list)
    _doomed: deque[Doomed] = field(default_factory=deque)
    _next: list[str] = field(default_factory=list)
    _current: deque[str] = field(default_factory=lambda: deque(maxlen=_CURRENT))
    _revoked: deque[tuple[int, str]] = field(default_factory=deque)
    _kept: list[str] = field(default_factory=list)
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    last_revision: int = 0
    """Of a revoke that has returned."""

    @property
    def waiting(self) -> int:
        """How many revokes there is something left for."""
        return len(self._doomed)

    def add(self, doomed: Doomed) -> None:
        with self._lock:
            self._doomed.append(doomed)
            self._choose_next()

    def take(self, *, cold: bool = False) -> Doomed | None:
        """Take what is to be revoked now; `cold`: of what was not asked about yet."""
        with self._lock:
            if not self._doomed:
                return None
            doomed = self._doomed.pop() if cold else self._doomed.popleft()
            self._current.extend(doomed.session_ids)
            self._choose_next()
            return doomed

    def put_back(self, doomed: Doomed) -> None:
        """A revoke failed; it may have happened."""
        self.add(doomed)

    def revoked(self, doomed: Doomed, revision: int) -> None:
        """A revoke has returned."""
        until = time.monotonic_ns() + self.retention_ns
        with self._lock:
            self.last_revision = max(self.last_revision, revision)
            for session_id in doomed.session_ids:
                self._revoked.append((until, session_id))
            self._count += 1
            if self._count % _KEEP_EVERY == 0:
                self._kept = [*self._kept, doomed.session_ids[0]][-_KEPT:]

    def _choose_next(self) -> None:
        first = (self._doomed[number] for number in range(min(_NEXT, len(self._doomed))))
        self._next = [session_id for doomed in first for session_id in doomed.session_ids]

    def choose(self, draw: random.Random) -> tuple[str, bool]:
        """Draw a session to ask about, and say whether it may demand the last revoke's revision."""
        where = draw.random()
        with self._lock:
            now = time.monotonic_ns()
            while self._revoked and self._revoked[0][0] < now:
                self._revoked.popleft()
            if where < 0.15 and self._current:
                return draw.choice(self._current), False
            if where < 0.50 and self._revoked:
                return draw.choice(self._revoked)[1], True
            if where < 0.60 and self._kept:
                return draw.choice(self._kept), True
            if where < 0.85 and self._next:
                return draw.choice(self._next), False
            return draw.choice(self.live), False


def retention_ns(max_staleness_seconds: float) -> int:
    """The bound, and enough more to see that it was kept."""
    return round((max_staleness_seconds + 1.5) * 1_000) * NS_PER_MS
