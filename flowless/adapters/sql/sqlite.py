"""SQLite: one file, one writer at a time, for one machine. The embedded default."""

from typing import Any, Final

import aiosqlite
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from flowless.adapters.sql.engines import Engines

_READERS: Final = 4


def open_sqlite(url: sa.URL, *, timeout_seconds: float, max_pages: int | None = None) -> Engines:
    """Prepare engines; they connect at first use. `max_pages` bounds the file's size."""
    async_url = url.set(drivername="sqlite+aiosqlite")
    options: dict[str, Any] = {
        # Statement parameters may be digests and addresses: never in an exception's text.
        "hide_parameters": True,
        "pool_timeout": timeout_seconds,
        "max_overflow": 0,
        "poolclass": sa.pool.AsyncAdaptedQueuePool,
        "connect_args": {"timeout": timeout_seconds, "async_creator_fn": _connect},
    }
    reader = create_async_engine(async_url, pool_size=_READERS, isolation_level="AUTOCOMMIT", **options)
    tail_reader = create_async_engine(async_url, pool_size=1, isolation_level="AUTOCOMMIT", **options)
    # SQLite has one writer at a time; queueing for it here is fairer than its busy handler.
    writer = create_async_engine(async_url, pool_size=1, **options)
    for engine in (reader, tail_reader, writer):
        _set_up(engine, max_pages=max_pages)
    sa.event.listen(writer.sync_engine, "begin", lambda conn: conn.exec_driver_sql("BEGIN IMMEDIATE"))
    return Engines(reader=reader, tail_reader=tail_reader, writer=writer)


async def _connect(*arguments: Any, **options: Any) -> aiosqlite.Connection:
    """Connect, and leave no thread behind when that fails.

    aiosqlite then tells its thread to stop without waiting for it: the thread would report to an event loop that a
    command may have closed by then, and end in a stack trace on the terminal.
    """
    connection = aiosqlite.connect(*arguments, **options)
    thread = connection._thread  # noqa: SLF001 - SQLAlchemy, which this replaces, reaches for it too
    thread.daemon = True
    try:
        return await connection
    except BaseException:
        thread.join(1.0)
        raise


def _set_up(engine: AsyncEngine, *, max_pages: int | None) -> None:
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun by us, see `open_sqlite`
        cursor = connection.cursor()
        # FULL: a revoke that returned survives a power cut (NORMAL would lose the last commits in WAL mode).
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
            cursor.execute(f"PRAGMA {pragma}")
        if max_pages is not None:
            cursor.execute(f"PRAGMA max_page_count={int(max_pages)}")
        cursor.close()

    sa.event.listen(engine.sync_engine, "connect", connected)
