"""How long may the cache be trusted? Pure: the caller brings the time of its own clock."""

from typing import Final

_NEVER: Final = -(2**63)


class Lease:
    """The right to answer from the cache, until a point on this process' own clock.

    A pong proves that the cache took in the whole log as it stood at some moment after its ping was *sent*. So
    the lease runs from the sending, whatever the network did afterwards, and no two machines' clocks are
    compared. A revocation that happened after the sending may be missing for at most `max_staleness_ns`.

    Without a lease (before the first pong, after the last one ran out) the cache may not say yes. Only an operator
    may make an exception, for named routes and a short while (`validator.py`); how long ago the lease ran out is what
    such an exception is measured by.
    """

    def __init__(self, *, max_staleness_ns: int) -> None:
        self._max_staleness_ns = max_staleness_ns
        self._expires_at_ns = _NEVER
        self._final = False

    def renew(self, sent_at_ns: int) -> None:
        """Extend the lease to `max_staleness` after the ping was sent. A pong that comes late never shortens it."""
        self._expires_at_ns = max(self._expires_at_ns, sent_at_ns + self._max_staleness_ns)
        self._final = False

    def held(self, now_ns: int) -> bool:
        """Whether the cache may be trusted now."""
        return now_ns < self._expires_at_ns

    def remaining_ns(self, now_ns: int) -> int:
        """Time left; 0 when the lease is not held."""
        return max(0, self._expires_at_ns - now_ns)

    def age_ns(self, now_ns: int) -> int | None:
        """How long ago the ping was sent that the lease runs from; `None` when there is none, or it was dropped."""
        expires_at_ns = self._expires_at_ns  # read once: the metrics' thread may ask
        return None if expires_at_ns == _NEVER else now_ns - (expires_at_ns - self._max_staleness_ns)

    def ran_out_ns(self, now_ns: int) -> int | None:
        """How long ago the lease ran out by itself.

        `None` while it is held, and when its end may excuse nothing: it was never held, was dropped, or was made
        final.
        """
        if self._final or self._expires_at_ns == _NEVER or now_ns < self._expires_at_ns:
            return None
        return now_ns - self._expires_at_ns

    def make_final(self) -> None:
        """Let nothing be served past this lease's end: Flowless refuses this sidecar. Undone by the next renewal.

        The lease itself stays what it is: what it vouches for was proven before.
        """
        self._final = True

    def drop(self) -> None:
        """End the lease at once: the log changed, or upstream broke the protocol and its word is worth nothing."""
        self._expires_at_ns = _NEVER
