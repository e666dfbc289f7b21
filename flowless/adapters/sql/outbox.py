"""Mail to be sent, in SQL."""

from datetime import datetime

import sqlalchemy as sa

from flowless.adapters.sql.database import WriteTransaction, to_us
from flowless.adapters.sql.schema import outbox
from flowless.domain.mail import OutgoingMail


async def add_mail(tx: WriteTransaction, mail: OutgoingMail, *, now: datetime, never: bool = False) -> None:
    """Put a mail into the outbox, in the transaction of what it tells: neither is there without the other.

    One that is `never` sent costs the same to write: whether a mail goes out is nobody's to measure.
    """
    await tx.connection.execute(
        sa.insert(outbox).values(
            id=mail.id,
            template=mail.template,
            recipient=mail.recipient,
            locale=mail.locale,
            jti=mail.jti,
            created_us=to_us(now),
            due_us=to_us(now),
            attempts=0,
            done_us=to_us(now) if never else None,
            outcome="void" if never else "",
        )
    )
