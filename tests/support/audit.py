"""An audit log in a list."""

from flowless.domain.audit import AuditEvent


class RecordedAudit:
    """See `flowless.ports.audit.AuditRecorder`."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []

    async def record(self, event: AuditEvent) -> None:
        self.events.append(event)
