"""Housekeeping in SQL."""

from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from flowless.adapters.sql.database import Database, WriteTransaction, to_us
from flowless.adapters.sql.schema import (
    audit_events,
    audit_head,
    bridge_secrets,
    log_head,
    outbox,
    revocations,
    sessions,
    trust_tokens,
)
from flowless.ports.housekeeping import Due, Kind

_LOCK: Final = 0x7472_7573_7467
"""Any number that nobody else uses as an advisory lock: the word `trustg`."""
_PLAIN: Final[dict[Kind, tuple[sa.Column[Any], sa.Column[Any]]]] = {
    Kind.SESSIONS: (sessions.c.digest, sessions.c.expires_us),
    Kind.BRIDGE_SECRETS: (bridge_secrets.c.digest, bridge_secrets.c.expires_us),
    Kind.TRUST_TOKENS: (trust_tokens.c.jti, trust_tokens.c.expires_us),
    Kind.MAIL: (outbox.c.id, outbox.c.done_us),
    Kind.AUDIT: (audit_events.c.sequence, audit_events.c.time_us),
}
"""Key and end of the kinds whose rows are due when their end is long past."""


class SqlHousekeepingStore:
    """See `flowless.ports.housekeeping.HousekeepingStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def count(self, due: Due) -> int:
        """See the port."""
        if due.kind is Kind.REVOCATIONS:
            head = sa.select(log_head.c.revision).scalar_subquery()
            # Of the log only what stands before the first row that is too young.
            young = (
                sa.select(sa.func.min(revocations.c.revision))
                .where(revocations.c.created_us >= to_us(due.before))
                .scalar_subquery()
            )
            statement = sa.select(sa.func.count().label("due")).where(
                revocations.c.revision <= head - due.keep_rows,
                sa.or_(young.is_(None), revocations.c.revision < young),
            )
        else:
            _, end = _PLAIN[due.kind]
            statement = sa.select(sa.func.count().label("due")).where(end < to_us(due.before))
        (row,) = await self._database.fetch(statement)
        return int(row["due"])

    async def delete_batch(self, due: Due, *, limit: int) -> int | None:
        """See the port.

        On PostgreSQL an advisory lock of the transaction keeps other replicas away: it ends with the transaction,
        also when this replica does. SQLite has one writer at a time anyway.
        """

        async def work(tx: WriteTransaction) -> int | None:
            if tx.connection.dialect.name == "postgresql":
                lock = sa.select(sa.func.pg_try_advisory_xact_lock(_LOCK))
                if not (await tx.connection.execute(lock)).scalar_one():
                    return None
            if due.kind is Kind.REVOCATIONS:
                return await _compact(tx, due, limit)
            if due.kind is Kind.AUDIT:
                return await _prune(tx, due, limit)
            key, end = _PLAIN[due.kind]
            oldest = sa.select(key).where(end < to_us(due.before)).order_by(end).limit(limit)
            return (await tx.connection.execute(sa.delete(key.table).where(key.in_(oldest)))).rowcount

        return await self._database.write(work)


async def _compact(tx: WriteTransaction, due: Due, limit: int) -> int:
    # The head's lock first, as every writer of the log takes it.
    end = (await tx.connection.execute(sa.select(log_head.c.revision).with_for_update())).scalar_one()
    oldest = (
        sa.select(revocations.c.revision, revocations.c.created_us)
        .where(revocations.c.revision <= end - due.keep_rows)
        .order_by(revocations.c.revision)
        .limit(limit)
    )
    through, rows = 0, 0
    for row in await tx.connection.execute(oldest):
        if row.created_us >= to_us(due.before):
            break
        through, rows = row.revision, rows + 1
    if rows:
        await tx.connection.execute(sa.delete(revocations).where(revocations.c.revision <= through))
        await tx.connection.execute(sa.update(log_head).values(compacted_through=through))
    return rows


async def _prune(tx: WriteTransaction, due: Due, limit: int) -> int:
    # The head's lock first, as whoever appends takes it.
    await tx.connection.execute(sa.select(audit_head.c.sequence).with_for_update())
    oldest = (
        sa.select(audit_events.c.sequence, audit_events.c.time_us, audit_events.c.hash)
        .order_by(audit_events.c.sequence)
        .limit(limit)
    )
    # Clocks of replicas differ: what is older than one that stays is not looked at.
    last, rows = None, 0
    for row in await tx.connection.execute(oldest):
        if row.time_us >= to_us(due.before):
            break
        last, rows = row, rows + 1
    if last is not None:
        await tx.connection.execute(sa.delete(audit_events).where(audit_events.c.sequence <= last.sequence))
        end = {"pruned_through": last.sequence, "pruned_hash": bytes(last.hash)}
        await tx.connection.execute(sa.update(audit_head).values(end))
        if due.event is not None:
            await tx.audit(replace(due.event, details={"through": last.sequence, "events": rows}))
    return rows
