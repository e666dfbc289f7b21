"""How long may the cache be trusted? Pure: the caller brings the time of its own clock."""

from typing import Final

_NEVER: Final = -(2**63)


class Lease:
    """The right to answer from the cache, until a point on this process' own clock.

    A pong proves that the cache took in the whole log as it stood at some moment after its ping was *sent*. So
    the lease runs from the sending, whatever the network did afterwards, and no two machines' clocks are
    compared. A revocation that happened after the sending may be missing for at most `max_staleness_ns`.

    Without a lease (before the first pong, after the last one ran out) the cache may not say yes.
    """

    def __init__(self, *, max_staleness_ns: int) -> None:
        self._max_staleness_ns = max_staleness_ns
        self._expires_at_ns = _NEVER

    def renew(self, sent_at_ns: int) -> None:
        """Extend the lease to `max_staleness` after the ping was sent. A pong that comes late never shortens it."""
        self._expires_at_ns = max(self._expires_at_ns, sent_at_ns + self._max_staleness_ns)

    def held(self, now_ns: int) -> bool:
        """Whether the cache may be trusted now."""
        return now_ns < self._expires_at_ns

    def remaining_ns(self, now_ns: int) -> int:
        """Time left; 0 when the lease is not held."""
        return max(0, self._expires_at_ns - now_ns)

    def drop(self) -> None:
        """End the lease at once: the log changed, or upstream broke the protocol and its word is worth nothing."""
        self._expires_at_ns = _NEVER
