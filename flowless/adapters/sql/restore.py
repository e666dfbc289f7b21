"""What has to happen to a database that was restored from a backup before anybody is served from it.

The backup knows nothing of what was revoked since it was made, so every session in it could be one that had been
revoked: all are revoked. And the revisions since then are given out a second time, so the log gets a new name: every
sidecar drops its cache when it next opens a watch, and entries of the Redis tier, which are bound to the name, open
no more.
"""

import secrets

import sqlalchemy as sa

from flowless.adapters.sql.database import Database
from flowless.adapters.sql.schema import log_head, users


async def revoke_after_restore(database: Database) -> int:
    """Revoke all sessions of all users and give the log a new name, in one transaction; return the users' number."""
    async with database.schema_connection() as connection:
        await connection.execute(sa.update(log_head).values(log_id=secrets.token_hex(16)))
        moved = await connection.execute(sa.update(users).values(session_epoch=users.c.session_epoch + 1))
        return int(moved.rowcount)
