"""Mail to be sent, in SQL."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from flowless.adapters.sql.database import Database, WriteTransaction, from_us, to_us
from flowless.adapters.sql.schema import outbox, trust_tokens
from flowless.domain.mail import ClaimedMail, MailOutcome, OutgoingMail


class SqlOutbox:
    """See `flowless.ports.mail.Outbox`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def claim(self, *, now: datetime, until: datetime, limit: int) -> Sequence[ClaimedMail]:
        """See the port. The rows are locked before they are changed, so nobody waits for another's claim."""
        due = sa.and_(outbox.c.done_us.is_(None), outbox.c.due_us <= to_us(now))
        # Most rounds find nothing: a read does not stand in line with the writers.
        if not await self._database.fetch(sa.select(outbox.c.id).where(due).limit(1)):
            return []

        async def work(tx: WriteTransaction) -> list[ClaimedMail]:
            oldest = (
                sa.select(outbox.c.id)
                .where(due)
                .order_by(outbox.c.due_us)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            ids = (await tx.connection.execute(oldest)).scalars().all()
            expiry = sa.select(trust_tokens.c.expires_us).where(trust_tokens.c.jti == outbox.c.jti).scalar_subquery()
            statement = (
                sa.update(outbox)
                .where(outbox.c.id.in_(ids), due)
                .values(due_us=to_us(until), attempts=outbox.c.attempts + 1)
                .returning(*outbox.c, expiry.label("expires_us"))
            )
            return [_claimed_of(row) for row in (await tx.connection.execute(statement)).mappings()]

        return await self._database.write(work)

    async def settle(self, claimed: ClaimedMail, outcome: MailOutcome, *, now: datetime) -> None:
        """See the port."""
        await self._change(claimed, {"done_us": to_us(now), "outcome": outcome.value, "recipient": ""})

    async def postpone(self, claimed: ClaimedMail, *, due: datetime) -> None:
        """See the port."""
        await self._change(claimed, {"due_us": to_us(due)})

    async def _change(self, claimed: ClaimedMail, values: dict[str, int | str]) -> None:
        statement = (
            sa.update(outbox)
            .where(outbox.c.id == claimed.mail.id, outbox.c.attempts == claimed.attempt, outbox.c.done_us.is_(None))
            .values(values)
        )

        async def work(tx: WriteTransaction) -> None:
            await tx.connection.execute(statement)

        await self._database.write(work)

    async def waiting(self) -> int:
        """See the port."""
        (row,) = await self._database.fetch(
            sa.select(sa.func.count().label("waiting")).select_from(outbox).where(outbox.c.done_us.is_(None))
        )
        return int(row["waiting"])


async def add_mail(tx: WriteTransaction, mail: OutgoingMail, *, now: datetime, never: bool = False) -> None:
    """Put a mail into the outbox, in the transaction of what it tells: neither is there without the other.

    One that is `never` sent costs the same to write: whether a mail goes out is nobody's to measure.
    """
    await tx.connection.execute(
        sa.insert(outbox).values(
            id=mail.id,
            template=mail.template,
            recipient="" if never else mail.recipient,
            locale=mail.locale,
            jti=mail.jti,
            created_us=to_us(now),
            due_us=to_us(now),
            attempts=0,
            done_us=to_us(now) if never else None,
            outcome=MailOutcome.VOID.value if never else "",
        )
    )


def _claimed_of(row: sa.RowMapping) -> ClaimedMail:
    return ClaimedMail(
        mail=OutgoingMail(
            id=row["id"],
            template=row["template"],
            recipient=row["recipient"],
            locale=row["locale"],
            jti=row["jti"],
        ),
        attempt=row["attempts"],
        created_at=from_us(row["created_us"]),
        expires_at=None if row["expires_us"] is None else from_us(row["expires_us"]),
    )
