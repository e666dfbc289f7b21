"""What does this sidecar remember of sessions, and what must it forget? Pure: no I/O, no clock, no transport.

Entries are bounded by number and by bytes (least recently used go first). Denials live apart, in a small table
of their own, so a flood of unknown ids cannot push out good entries.

The revision guard keeps a late fill from resurrecting the dead. A fill carries the revision that was read in the
same snapshot as the session; it is dropped when a revocation that touches it, with a later revision, has been
applied already. Touching revocations are remembered in bounded number; `floor` is the newest that was forgotten,
and fills older than it are dropped whatever they concern. The other order needs no memory: a revocation that
arrives after the fill removes the entry.

Why an entry filled while the watch was down is sound after a reconnect: the entry reflects every revocation up to
its own revision R. The replay starts after the last *applied* revision, so it brings every revocation later than
that, and with them every one later than R that touches the entry; those remove it. Replayed ones up to R are
reflected already; they remove the entry as well, which costs one more question and is always safe. If the log
cannot be replayed, `reset` drops everything, and its generation turns away fills of questions asked before it.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from cachetools import LRUCache

from trust_core.modes import Binding, DenialReason

ENTRY_OVERHEAD_BYTES: Final = 1_300
"""What an entry weighs beside its payload: key, binding, four tables' slots. Measured, CPython 3.11."""

_ROLE_OVERHEAD_BYTES: Final = 160
"""What a role weighs beside its letters: a text, and its share of the set."""

_HELD_DENIALS: Final = frozenset((DenialReason.UNKNOWN, DenialReason.EXPIRED, DenialReason.REVOKED))
"""Denials that may be remembered. Idle expiry may still be slid by a report that is under way, and a disabled user
may be enabled: those are asked again each time."""


class GapError(Exception):
    """A revocation came out of turn; what the cache holds can no longer be trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """One row of the log: drop one session, or all of a user's, or (both empty) nothing that is cached here."""

    revision: int
    session_digest: bytes = b""
    user_id: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """An active session. Times are of this process' own clock; only `idle_expires_at_ns` ever changes.

    `payload` is opaque to the cache. `filled_at_ns` is when the question was *sent* upstream. Both deadlines, and
    backwards the last proof of who the user is, are counted from it, so time spent on the network only ever makes
    an entry older.
    """

    payload: bytes
    user_id: str
    binding: Binding
    roles: frozenset[str]
    authenticated_at_ns: int
    revision: int
    absolute_expires_at_ns: int
    idle_expires_at_ns: int
    filled_at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """Bounds of everything that the cache keeps."""

    max_entries: int
    max_bytes: int
    negative_max_entries: int
    negative_ttl_ns: int
    remembered_revocations: int = 10_000


class Ticket(NamedTuple):
    """State of the cache when a question was sent upstream; the answer must still belong to it."""

    generation: int
    logins: int


class HeldDenial(NamedTuple):
    """A denial that is remembered for a short while."""

    reason: DenialReason
    revision: int
    learnt_at_ns: int
    expires_at_ns: int


class _IndexedLRU(LRUCache[bytes, Entry]):
    """An LRU that also knows which digests belong to a user, exactly, whichever way an entry leaves."""

    def __init__(self, *, max_bytes: int) -> None:
        super().__init__(max_bytes, getsizeof=weight)
        self._by_user: dict[str, set[bytes]] = {}

    def __setitem__(self, digest: bytes, entry: Entry) -> None:
        self.pop(digest, None)
        super().__setitem__(digest, entry)
        self._by_user.setdefault(entry.user_id, set()).add(digest)

    def __delitem__(self, digest: bytes) -> None:
        user_id = self.peek(digest).user_id
        super().__delitem__(digest)
        digests = self._by_user[user_id]
        digests.discard(digest)
        if not digests:
            del self._by_user[user_id]

    def peek(self, digest: bytes) -> Entry:
        """Read an entry without making it recently used."""
        return super(LRUCache, self).__getitem__(digest)

    def clear(self) -> None:
        super().clear()
        self._by_user.clear()

    def digests_of(self, user_id: str) -> tuple[bytes, ...]:
        """List the digests of a user's entries."""
        return tuple(self._by_user.get(user_id, ()))

    def users(self) -> Iterator[str]:
        """Iterate over the users that have entries."""
        return iter(self._by_user)


def weight(entry: Entry) -> int:
    """Bytes that an entry counts for."""
    return (
        ENTRY_OVERHEAD_BYTES
        + len(entry.payload)
        + sum(_ROLE_OVERHEAD_BYTES + len(role.encode()) for role in entry.roles)
    )


class SessionCache:
    """See the module. One event loop touches it; every method runs to its end without giving way."""

    def __init__(self, *, limits: CacheLimits) -> None:
        self._limits = limits
        self._entries = _IndexedLRU(max_bytes=limits.max_bytes)
        self._denials: OrderedDict[bytes, HeldDenial] = OrderedDict()
        # Digest or user id -> the last revision that touched it; oldest first. Bytes and str cannot collide.
        self._touched: OrderedDict[bytes | str, int] = OrderedDict()
        self._last_user_revision = 0
        self._floor = 0
        self._generation = 0
        self._logins = 0
        self._log_id = ""
        self._applied_revision = 0

    @property
    def log_id(self) -> str:
        """The log that the revisions belong to; empty before the first one is known."""
        return self._log_id

    @property
    def applied_revision(self) -> int:
        """The last revision applied; 0 when none."""
        return self._applied_revision

    @property
    def generation(self) -> int:
        """How often the cache was reset."""
        return self._generation

    @property
    def entries(self) -> int:
        """How many sessions are cached."""
        return len(self._entries)

    @property
    def weight_bytes(self) -> int:
        """What they weigh."""
        return int(self._entries.currsize)

    @property
    def free_entries(self) -> int:
        """How many more sessions fit before one has to make way."""
        return self._limits.max_entries - len(self._entries)

    @property
    def free_bytes(self) -> int:
        """What they may weigh."""
        return self._limits.max_bytes - self.weight_bytes

    def ticket(self) -> Ticket:
        """Take this before asking upstream, and bring it with the answer."""
        return Ticket(self._generation, self._logins)

    def get(self, digest: bytes, now_ns: int) -> Entry | None:
        """Find a session that is past neither of its deadlines. A hit does not extend them."""
        try:
            entry = self._entries[digest]
        except KeyError:
            return None
        if now_ns >= entry.idle_expires_at_ns or now_ns >= entry.absolute_expires_at_ns:
            del self._entries[digest]
            return None
        return entry

    def denial(self, digest: bytes, now_ns: int) -> HeldDenial | None:
        """Find a denial that was learnt less than its time to live ago."""
        held = self._denials.get(digest)
        if held is None:
            return None
        if now_ns >= held.expires_at_ns:
            del self._denials[digest]
            return None
        return held

    def touched_since(self, digest: bytes, user_id: str, revision: int) -> int | None:
        """Return the last applied revision after `revision` that touches the session; `None` when there is none.

        A revision so old that what came after it is partly forgotten counts as touched.
        """
        latest = max(self._touched.get(digest, 0), self._touched.get(user_id, 0), self._floor)
        return latest if latest > revision else None

    def may_touch_since(self, digest: bytes, revision: int) -> bool:
        """Like `touched_since` while the session's user is not known yet: any user's revocation counts."""
        return max(self._touched.get(digest, 0), self._last_user_revision, self._floor) > revision

    def insert(self, ticket: Ticket, digest: bytes, entry: Entry, now_ns: int) -> bool:
        """Keep a session, unless something newer is known; says whether it was kept. Never raises."""
        if (
            ticket.generation != self._generation
            or self.touched_since(digest, entry.user_id, entry.revision) is not None
            or now_ns >= min(entry.idle_expires_at_ns, entry.absolute_expires_at_ns)
            or weight(entry) > self._limits.max_bytes
        ):
            return False
        held = self._denials.get(digest)
        if held is not None and held.revision > entry.revision:
            return False
        if digest in self._entries:
            if self._entries.peek(digest).revision > entry.revision:
                return False
        elif len(self._entries) >= self._limits.max_entries:
            self._entries.popitem()
        self._denials.pop(digest, None)
        self._entries[digest] = entry
        return True

    def fill(self, ticket: Ticket, digest: bytes, entry: Entry, now_ns: int) -> bool:
        """Like `insert`, but only into room that is free: nothing that was asked for makes way, or is replaced."""
        room = self.free_entries > 0 and weight(entry) <= self.free_bytes
        return room and digest not in self._entries and self.insert(ticket, digest, entry, now_ns)

    def insert_denial(self, ticket: Ticket, digest: bytes, reason: int, revision: int, now_ns: int) -> bool:
        """Remember a "no" for a short while, and drop what it contradicts; says whether it was remembered.

        A reason that this version does not know is not remembered, but contradicts as well as any.

        An UNKNOWN that was asked before a login which has finished since is not remembered: it may be about the
        session which that login made.
        """
        if ticket.generation != self._generation:
            return False
        if digest in self._entries:
            if self._entries.peek(digest).revision > revision:
                return False
            del self._entries[digest]
        if reason not in _HELD_DENIALS or (reason == DenialReason.UNKNOWN and ticket.logins != self._logins):
            return False
        self._denials.pop(digest, None)
        while len(self._denials) >= self._limits.negative_max_entries:
            self._denials.popitem(last=False)
        self._denials[digest] = HeldDenial(
            DenialReason(reason), revision, now_ns, now_ns + self._limits.negative_ttl_ns
        )
        return True

    def forget_unknown(self) -> None:
        """Forget every UNKNOWN, and those still on their way: a login has made a session."""
        self._logins += 1
        for digest in [d for d, held in self._denials.items() if held.reason is DenialReason.UNKNOWN]:
            del self._denials[digest]

    def extend_idle(self, digest: bytes, idle_expires_at_ns: int) -> None:
        """Slide an entry's idle deadline, because upstream said so. Absolute expiry stays what it is."""
        if digest in self._entries:
            entry = self._entries.peek(digest)
            entry.idle_expires_at_ns = max(entry.idle_expires_at_ns, idle_expires_at_ns)

    def apply(self, revocation: Revocation) -> None:
        """Take in the next row of the log.

        What it touches is removed even when the entry is newer than the revocation and reflects it already:
        removing is always safe, and simpler. Raises `GapError`, changing nothing, when the revision is not the
        next one.
        """
        if revocation.revision != self._applied_revision + 1:
            raise GapError(f"revision {revocation.revision} after {self._applied_revision}")
        self._applied_revision = revocation.revision
        if revocation.session_digest:
            self._touch(revocation.session_digest)
            self._entries.pop(revocation.session_digest, None)
        if revocation.user_id:
            self._last_user_revision = revocation.revision
            self._touch(revocation.user_id)
            for digest in self._entries.digests_of(revocation.user_id):
                del self._entries[digest]

    def _touch(self, target: bytes | str) -> None:
        self._touched[target] = self._applied_revision
        self._touched.move_to_end(target)
        while len(self._touched) > self._limits.remembered_revocations:
            _, self._floor = self._touched.popitem(last=False)

    def reset(self, *, log_id: str, revision: int) -> None:
        """Drop everything and go on from `revision` of that log.

        Answers to questions asked before are not taken in any more: they may be of another log.
        """
        self._entries.clear()
        self._denials.clear()
        self._touched.clear()
        self._generation += 1
        self._log_id = log_id
        self._applied_revision = self._floor = self._last_user_revision = revision
