"""What housekeeping needs of storage: to count and to delete what is due, a small batch at a time."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Kind(StrEnum):
    """Kinds of rows that are deleted one day. A kind more is a member here and a branch in the store."""

    SESSIONS = "sessions"
    BRIDGE_SECRETS = "bridge_secrets"
    REVOCATIONS = "revocations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Which rows of a kind are due: those whose time was over `before`; of the log the last `keep_rows` never."""

    kind: Kind
    before: datetime
    keep_rows: int = 0


class HousekeepingStore(Protocol):
    """Errors are those of storage."""

    async def count(self, due: Due) -> int:
        """Count the rows that are due."""
        ...

    async def delete_batch(self, due: Due, *, limit: int) -> int | None:
        """Delete at most that many, in one transaction. `None`: another replica is at it.

        Of the log the oldest rows go first and without gaps, and the log's head says how far it was compacted in the
        same transaction.
        """
        ...
