"""What limits on attempts need: counters that many may raise at once."""

from typing import Protocol

from flowless.domain.attempts import Hit, Limit


class AttemptCounters(Protocol):
    """Counters by limit and key. A key is a digest: no address and no login name comes here.

    Nothing here fails: what cannot be counted in common with other replicas is counted by this one alone.
    """

    async def hit(self, limit: Limit, key: str, *, cost: int = 1) -> Hit:
        """Count, then judge, in one step: of any number at once, `limit.amount` are within. A cost of -1 gives back.

        The time runs from the first count and is not prolonged by those that follow.
        """
        ...

    async def count(self, limit: Limit, key: str) -> int:
        """Read what was counted and is not over."""
        ...

    async def clear(self, limit: Limit, key: str) -> None:
        """Begin anew."""
        ...

    @property
    def alone(self) -> bool:
        """Whether this replica counts alone just now, although it should not."""
        ...

    @property
    def kept(self) -> int:
        """Counters in this replica's memory, for the metric."""
        ...

    @property
    def evicted(self) -> int:
        """How many went from memory before their time because there were too many."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...
