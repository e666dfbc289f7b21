"""What the services need of the audit log when nothing else is written: events without an effect of their own."""

from typing import Protocol

from flowless.domain.audit import AuditEvent


class AuditTrail(Protocol):
    """Appends. Events of a change are written by the change's own store, in its transaction."""

    async def record(self, event: AuditEvent) -> None:
        """Append one event, in a transaction of its own. Errors are those of storage."""
        ...
