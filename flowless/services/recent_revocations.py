"""Which sessions and users did the last revocations touch? The replica's own check on everything that a tier says.

The same rule as in the sidecar's cache: something that was true at revision R is true still if no later revocation
touches it. Touched targets are remembered in bounded number; what is older than `floor` may have been forgotten, so
anything from before it is not believed, whatever it concerns.

Shared state: the table, touched by the event loop only.
"""

from collections import OrderedDict
from typing import Final

from flowless.domain.revocations import LogHead, Revocation
from flowless.ports.stores import RevocationLog

_PAGE: Final = 1_000


class RecentRevocations:
    """See the module. Fed by the tail with every row, in order; `load` brings those from before this process."""

    def __init__(self, *, remembered: int = 10_000) -> None:
        self._remembered = remembered
        self._touched: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._floor = 0

    async def load(self, log: RevocationLog, head: LogHead) -> None:
        """Read the last rows up to the tail's first position, so that a new replica believes what others wrote.

        Raises what storage raises.
        """
        after = max(head.compacted_through, head.revision - self._remembered)
        self._touched.clear()
        self._floor = after
        while after < head.revision:
            rows = await log.after(after, until=head.revision, limit=_PAGE)
            if not rows or rows[0].revision != after + 1:
                self.start_over(head)  # compacted meanwhile: nothing from before is believed
                return
            for row in rows:
                self.on_revocation(row)
            after = rows[-1].revision

    def on_revocation(self, row: Revocation) -> None:
        """Take a row in."""
        target = (row.subject, row.key)
        self._touched[target] = row.revision
        self._touched.move_to_end(target)
        while len(self._touched) > self._remembered:
            _, self._floor = self._touched.popitem(last=False)

    def start_over(self, head: LogHead) -> None:
        """Rows were missed, or it is another log: believe nothing from before this end."""
        self._touched.clear()
        self._floor = head.revision

    def reflects(self, *, digest: bytes, user_id: str, revision: int) -> bool:
        """Whether what was true of this session at `revision` takes every revocation since into account."""
        return (
            revision >= self._floor
            and self._touched.get(("session", digest.hex()), 0) <= revision
            and self._touched.get(("user", user_id), 0) <= revision
        )
