"""What housekeeping needs of storage: to count and to delete what is due, a small batch at a time."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from flowless.domain.audit import AuditEvent


class Kind(StrEnum):
    """Kinds of rows that are deleted one day. A kind more is a member here and a branch in the store."""

    SESSIONS = "sessions"
    BRIDGE_SECRETS = "bridge_secrets"
    REVOCATIONS = "revocations"
    TRUST_TOKENS = "trust_tokens"
    MAIL = "mail"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Which rows of a kind are due: those whose time was over `before`; of the log the last `keep_rows` never.

    `event` is what deleting leaves in the audit log, if anything; the store adds how much it was.
    """

    kind: Kind
    before: datetime
    keep_rows: int = 0
    event: AuditEvent | None = None


class HousekeepingStore(Protocol):
    """Errors are those of storage."""

    async def count(self, due: Due) -> int:
        """Count the rows that are due."""
        ...

    async def delete_batch(self, due: Due, *, limit: int) -> int | None:
        """Delete at most that many, in one transaction. `None`: another replica is at it.

        Of the logs the oldest rows go first and without gaps, and the log's head says how far it went in the same
        transaction. That events of the audit log went is an event.
        """
        ...
