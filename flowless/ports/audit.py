"""What the services need of the audit log. Events of a change are written by the change's own store."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from flowless.domain.audit import AuditEvent, AuditRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """Both ends of the log: the last event, and the last of those that went by age."""

    sequence: int
    hash: bytes
    pruned_through: int
    pruned_hash: bytes


class AuditRecorder(Protocol):
    """Appends. Errors are those of storage."""

    async def record(self, event: AuditEvent) -> None:
        """Append one event that has no effect of its own, in a transaction of its own."""
        ...


class AuditTrail(AuditRecorder, Protocol):
    """Appends and reads. Errors are those of storage."""

    async def head(self) -> AuditHead:
        """Read both ends."""
        ...

    async def before(self, sequence: int | None, *, user_id: str, limit: int) -> Sequence[AuditRecord]:
        """Read the events before that one, newest first; of a user or, with an empty id, of all."""
        ...

    async def after(self, sequence: int, *, limit: int) -> Sequence[AuditRecord]:
        """Read the events after that one, in order."""
        ...
