"""Rows of each table: how many there are, and how many there may be after what was written.

A session that was ended is kept for an hour at least, which is longer than most runs. So that housekeeping has
something to do in minutes, `age` moves the expiry of ended sessions into the past, as if they had ended long ago:
nobody is told yes or no by the expiry of a session that is revoked.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from flowless.adapters.sql.schema import metadata
from tests.faults.world import DATABASE
from tools.postgres_server import PostgresServer

HOUSEKEEPING: Final = {
    "FLOWLESS_HOUSEKEEPING_INTERVAL_SECONDS": "5",
    "FLOWLESS_LOG_RETENTION_SECONDS": "60",
    "FLOWLESS_SESSION_RETENTION_SECONDS": "3600",
}
_WRITES: Final = ("Login", "RotateSession", "RevokeSession", "RevokeUserSessions", "RegisterUser")
_SLACK: Final = 200
"""Rows beside what was counted: calls whose answer was lost, bridges, replicas that came and went."""
_LIVE: Final = 400
"""Sessions that are live, and those of calls whose answer was lost."""
_SECONDS_UNTIL_DELETED: Final = 60
"""Of an ended session: it is aged, and a round of housekeeping or two go by, some of which faults prevent."""


def count_rows(postgres: PostgresServer) -> dict[str, int]:
    """Count the rows of every table."""
    with postgres.connect(DATABASE) as connection:
        counted = {}
        for table in metadata.tables:
            row = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()
            counted[table] = int(row[0]) if row else 0
        return counted


def age(postgres: PostgresServer) -> None:
    """Make sessions that were revoked look as if they had expired a day ago."""
    postgres.execute(
        "UPDATE sessions SET expires_us = LEAST(expires_us, created_us - 86400000000) WHERE revoked_us IS NOT NULL "
        "OR EXISTS (SELECT FROM users WHERE users.id = sessions.user_id AND users.session_epoch <> sessions.epoch)",
        DATABASE,
    )


def too_many(rows: Mapping[str, int], calls: Counter[tuple[str, str]], ended_per_second: float) -> list[str]:
    """Say which tables hold more than what was written explains. Failed calls may have written, too."""
    writes = sum(count for (name, _), count in calls.items() if name in _WRITES)
    bounds = {
        "sessions": min(writes, round(_LIVE + ended_per_second * _SECONDS_UNTIL_DELETED)),
        "revocations": writes,
        "audit_events": 2 * writes,
        "users": writes,
    }
    return [
        f"{table} holds {count} rows, at most {bounds.get(table, 0) + _SLACK} were expected"
        for table, count in rows.items()
        if count > bounds.get(table, 0) + _SLACK
    ]
