"""The database: engines, transactions, the log's one lock, and the place where driver exceptions die.

Reads run in autocommit, one statement each: a statement is a snapshot. Writes run in a transaction that is
finished once begun, even when the caller is cancelled, so a revoke that reached storage is never left half-way
because an app hung up.

Shared state: the set of running writes, touched by the event loop only.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self, TypeVar

import aiosqlite
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from flowless.adapters.sql import schema
from flowless.domain.revocations import Subject
from trust_core.errors import Reason, TrustError

T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_READERS: Final = 4


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """Inverse of `to_us`."""
    return _EPOCH + timedelta(microseconds=microseconds)


class Database:
    """One database. Use `open`, then `read` and `write`, then `close`."""

    def __init__(self, *, reader: AsyncEngine, tail_reader: AsyncEngine, writer: AsyncEngine) -> None:
        self.reader = reader
        self.tail_reader = tail_reader
        self._writer = writer
        self._log_listeners: list[Callable[[], None]] = []
        self._writes: set[asyncio.Task[Any]] = set()

    @classmethod
    def open(
        cls,
        url: str,
        *,
        busy_timeout_seconds: float = 2.0,
        max_pages: int | None = None,
    ) -> Self:
        """Prepare engines for a `sqlite:///path` URL; connects at first use.

        A writer waits at most `busy_timeout_seconds` for another writer, then STORAGE_UNAVAILABLE. `max_pages`
        bounds the file's size; storage over it is STORAGE_FULL.
        """
        async_url = sa.make_url(url).set(drivername="sqlite+aiosqlite")
        options: dict[str, Any] = {
            # Statement parameters may be digests and addresses: never in an exception's text.
            "hide_parameters": True,
            "pool_timeout": busy_timeout_seconds,
            "max_overflow": 0,
            "poolclass": sa.pool.AsyncAdaptedQueuePool,
            "connect_args": {"timeout": busy_timeout_seconds, "async_creator_fn": _connect},
        }
        reader = create_async_engine(async_url, pool_size=_READERS, isolation_level="AUTOCOMMIT", **options)
        # The tail has a connection of its own: no flood of other reads may keep sidecars from their leases.
        tail_reader = create_async_engine(async_url, pool_size=1, isolation_level="AUTOCOMMIT", **options)
        # SQLite has one writer at a time; queueing for it here is fairer than its busy handler.
        writer = create_async_engine(async_url, pool_size=1, **options)
        for engine in (reader, tail_reader, writer):
            _set_up_sqlite(engine, max_pages=max_pages)
        sa.event.listen(writer.sync_engine, "begin", lambda conn: conn.exec_driver_sql("BEGIN IMMEDIATE"))
        return cls(reader=reader, tail_reader=tail_reader, writer=writer)

    def when_log_written(self, listener: Callable[[], None]) -> None:
        """Call the listener in the event loop after each commit that wrote the revocation log."""
        self._log_listeners.append(listener)

    async def close(self) -> None:
        """Finish running writes, then close all connections."""
        while self._writes:
            await asyncio.wait(self._writes)
        for engine in (self._writer, self.tail_reader, self.reader):
            await engine.dispose()

    @asynccontextmanager
    async def read(self, engine: AsyncEngine | None = None) -> AsyncIterator[AsyncConnection]:
        """Give a connection for single-statement reads, of the shared readers unless told otherwise."""
        with translated():
            async with (engine or self.reader).connect() as connection:
                yield connection

    async def write(self, work: Callable[["WriteTransaction"], Awaitable[T]]) -> T:
        """Run `work` in one write transaction and commit it; roll back when it raises.

        A cancelled caller stops waiting; the transaction goes on to its end.
        """
        task = asyncio.ensure_future(self._write(work))
        self._writes.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # seen: a caller that went away must not leave a warning behind

    async def _write(self, work: Callable[["WriteTransaction"], Awaitable[T]]) -> T:
        with translated():
            async with self._writer.begin() as connection:
                transaction = WriteTransaction(connection)
                result = await work(transaction)
            if transaction.wrote_log:
                for listener in self._log_listeners:
                    listener()
            return result

    @asynccontextmanager
    async def schema_connection(self) -> AsyncIterator[AsyncConnection]:
        """Give a write transaction for the migrations."""
        with translated():
            async with self._writer.begin() as connection:
                yield connection


class WriteTransaction:
    """A running write transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self.wrote_log = False

    async def append(self, subject: Subject, key: str, *, now: datetime) -> int:
        """Write one row of the revocation log and return its revision.

        The head's row lock is held until commit, so no later revision can become visible before this one.
        """
        head = schema.log_head
        statement = sa.update(head).values(revision=head.c.revision + 1).returning(head.c.revision)
        revision = (await self.connection.execute(statement)).scalar_one()
        await self.connection.execute(
            sa.insert(schema.revocations).values(revision=revision, subject=subject, key=key, created_us=to_us(now))
        )
        self.wrote_log = True
        return int(revision)

    async def log_end(self) -> int:
        """Read the log's end inside this transaction."""
        return int((await self.connection.execute(sa.select(schema.log_head.c.revision))).scalar_one())


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


def _set_up_sqlite(engine: AsyncEngine, *, max_pages: int | None) -> None:
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun by us, see `open`
        cursor = connection.cursor()
        # FULL: a revoke that returned survives a power cut (NORMAL would lose the last commits in WAL mode).
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
            cursor.execute(f"PRAGMA {pragma}")
        if max_pages is not None:
            cursor.execute(f"PRAGMA max_page_count={int(max_pages)}")
        cursor.close()

    sa.event.listen(engine.sync_engine, "connect", connected)


class translated:  # noqa: N801 - reads as a statement: `with translated():`
    """Turn every driver exception into STORAGE_FULL or STORAGE_UNAVAILABLE.

    IntegrityError passes: stores decide what a broken constraint means and let none of them out.
    """

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Translate."""
        if isinstance(error, sa.exc.IntegrityError) or not isinstance(
            error, sa.exc.SQLAlchemyError | sqlite3.Error | OSError
        ):
            return
        driver_error = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        code = getattr(driver_error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise TrustError(Reason.STORAGE_FULL, "the database's disk is full; free space and retry") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or isinstance(error, sa.exc.TimeoutError):
            raise TrustError(Reason.STORAGE_UNAVAILABLE, "the database is busy; retry") from error
        raise TrustError(Reason.STORAGE_UNAVAILABLE, "the database cannot be used now; retry") from error
