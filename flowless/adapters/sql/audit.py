"""The audit log in SQL. What is written here has no effect of its own; see `WriteTransaction.audit`."""

from flowless.adapters.sql.database import Database, WriteTransaction
from flowless.domain.audit import AuditEvent


class SqlAuditTrail:
    """See `flowless.ports.audit.AuditTrail`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def record(self, event: AuditEvent) -> None:
        """See the port."""

        async def work(tx: WriteTransaction) -> None:
            await tx.audit(event)

        await self._database.write(work)
