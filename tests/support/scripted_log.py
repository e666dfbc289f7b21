"""A revocation log over a list, whose reads a test can hold back and fail."""

import asyncio
from collections.abc import Sequence

from flowless.domain.revocations import LogHead, Revocation, Subject


class ScriptedLog:
    """See `flowless.ports.stores.RevocationLog`.

    A read takes its snapshot when it begins and returns it when the gate is open: what is appended while it is held
    is not in it, as in a database.
    """

    def __init__(self) -> None:
        self.log_id = "log-1"
        self.compacted_through = 0
        self.barrier_revision = 0
        self.member = True
        self.error: Exception | None = None
        self.begun = 0
        self._rows: list[Revocation] = []
        self._gate = asyncio.Event()
        self._gate.set()

    @property
    def end(self) -> int:
        """The last revision."""
        return len(self._rows)

    def append(self, subject: Subject = "user", key: str = "usr", *, count: int = 1) -> int:
        """Append rows; return the last revision."""
        for _ in range(count):
            self._rows.append(Revocation(revision=self.end + 1, subject=subject, key=key))
        return self.end

    def cut(self, end: int) -> None:
        """Lose the rows after a revision, as a restored backup does."""
        del self._rows[end:]

    def hold(self) -> None:
        """Let reads begin and not return."""
        self._gate.clear()

    def release(self) -> None:
        """Let the reads that are held return."""
        self._gate.set()

    async def head(self) -> LogHead:
        self.begun += 1
        head = LogHead(
            log_id=self.log_id,
            revision=self.end,
            compacted_through=self.compacted_through,
            barrier_revision=self.barrier_revision,
            member=self.member,
        )
        error = self.error
        await self._gate.wait()
        if error is not None:
            raise error
        return head

    async def after(self, revision: int, *, until: int, limit: int) -> Sequence[Revocation]:
        first = max(revision, self.compacted_through)
        return self._rows[first:until][:limit]
