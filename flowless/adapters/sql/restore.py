"""What has to happen to a database that was restored from a backup before anybody is served from it.

The backup knows nothing of what was revoked since it was made, so every session in it could be one that had been
revoked: all are revoked. A trust token that was spent since would be good again: all are void. And the revisions
since then are given out a second time, so the log gets a new name: every sidecar drops its cache when it next opens
a watch, and entries of the Redis tier, which are bound to the name, open no more.
"""

import secrets
from datetime import datetime

import sqlalchemy as sa

from flowless.adapters.sql.database import Database, WriteTransaction, to_us
from flowless.adapters.sql.schema import log_head, trust_tokens, users
from flowless.domain.audit import Action, Actor


async def revoke_after_restore(database: Database, *, now: datetime, by: Actor) -> int:
    """Revoke all sessions, void all trust tokens and give the log a new name, in one transaction.

    Returns the number of users.
    """
    async with database.schema_connection() as connection:
        await connection.execute(sa.update(log_head).values(log_id=secrets.token_hex(16)))
        epochs = {"session_epoch": users.c.session_epoch + 1, "token_epoch": users.c.token_epoch + 1}
        moved = await connection.execute(sa.update(users).values(epochs))
        unspent = sa.update(trust_tokens).where(trust_tokens.c.spent_us.is_(None), trust_tokens.c.void_us.is_(None))
        await connection.execute(unspent.values(void_us=to_us(now)))
        await WriteTransaction(connection).audit(by.event(Action.DATABASE_RESTORED, now=now))
        return int(moved.rowcount)
