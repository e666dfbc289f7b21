"""The audit log in SQL: reading it, and events without an effect of their own; see `WriteTransaction.audit`."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from flowless.adapters.sql.database import Database, WriteTransaction, from_us
from flowless.adapters.sql.schema import audit_events, audit_head
from flowless.domain.audit import AuditEvent, AuditRecord
from flowless.ports.audit import AuditHead


class SqlAuditTrail:
    """See `flowless.ports.audit.AuditTrail`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def record(self, event: AuditEvent) -> None:
        """See the port."""

        async def work(tx: WriteTransaction) -> None:
            await tx.audit(event)

        await self._database.write(work)

    async def head(self) -> AuditHead:
        """See the port."""
        (row,) = await self._database.fetch(sa.select(audit_head))
        return AuditHead(
            sequence=row["sequence"],
            hash=bytes(row["hash"]),
            pruned_through=row["pruned_through"],
            pruned_hash=bytes(row["pruned_hash"]),
        )

    async def before(self, sequence: int | None, *, user_id: str, limit: int) -> Sequence[AuditRecord]:
        """See the port."""
        statement = sa.select(audit_events).order_by(audit_events.c.sequence.desc()).limit(limit)
        if sequence is not None:
            statement = statement.where(audit_events.c.sequence < sequence)
        if user_id:
            statement = statement.where(audit_events.c.user_id == user_id)
        return [_record_of(row) for row in await self._database.fetch(statement)]

    async def after(self, sequence: int, *, limit: int) -> Sequence[AuditRecord]:
        """See the port."""
        statement = (
            sa.select(audit_events)
            .where(audit_events.c.sequence > sequence)
            .order_by(audit_events.c.sequence)
            .limit(limit)
        )
        return [_record_of(row) for row in await self._database.fetch(statement)]


def _record_of(row: sa.RowMapping) -> AuditRecord:
    """Read a row, whatever somebody has written into it: that is what the chain is to find."""
    return AuditRecord(
        sequence=row["sequence"],
        event=AuditEvent(
            time=_moment(row["time_us"]),
            action=row["action"],
            outcome=row["outcome"],
            actor=row["actor"],
            subject=row["subject"],
            user_id=row["user_id"],
            client_ip=row["client_ip"],
            request_id=row["request_id"],
            details=_details(row["details"]),
        ),
        hash=bytes(row["hash"]),
    )


def _details(text: str) -> dict[str, str | int | bool | list[str]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    # As it is written, and no other text of the same meaning: what was altered is not to look unaltered.
    if not isinstance(found, dict) or json.dumps(found, ensure_ascii=True, sort_keys=True) != text:
        return {"unreadable": text}
    return found


def _moment(microseconds: int) -> datetime:
    try:
        return from_us(microseconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)  # no event of ours: the chain does not hold with it
