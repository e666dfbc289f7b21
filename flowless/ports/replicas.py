"""What the services need of the table of replicas. The store passes `tests/conformance`.

Storage that fails raises TrustError STORAGE_UNAVAILABLE or STORAGE_FULL.
"""

from collections.abc import Sequence
from typing import Protocol

from flowless.domain.replicas import Acknowledgement, ReplicaRecord, ReplicaReport


class ReplicaRegistry(Protocol):
    """Replicas, who watches them, and how far each has acknowledged the log."""

    async def report(self, report: ReplicaReport) -> bool:
        """Write this replica's record; it is not doubted afterwards. Says whether it was not there.

        STORAGE_UNAVAILABLE, and nothing changed, when a later report was written already.
        """
        ...

    async def acknowledge(self, replica_id: str, acknowledgement: Acknowledgement) -> None:
        """Raise what a replica acknowledges; never lowers it."""
        ...

    async def ask(self, revision: int) -> None:
        """Ask every replica to acknowledge the log up to a revision; they see it at their next read of its head."""
        ...

    async def list(self, *, with_watchers: bool = True) -> Sequence[ReplicaRecord]:
        """Read all records in one snapshot, in the order of names; without the reports of watchers if not wanted."""
        ...

    async def doubt(self, replica_id: str, *, beat: int) -> None:
        """Note that a replica has not reported since that beat; nothing happens when it has."""
        ...

    async def remove(self, replica_id: str, *, beat: int) -> None:
        """Forget a replica that is doubted still and has not reported since that beat."""
        ...
