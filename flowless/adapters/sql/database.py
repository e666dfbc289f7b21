"""The database: engines, transactions, the log's one lock, and the place where driver exceptions die.

Reads run in autocommit, one statement each: a statement is a snapshot. Writes run in a transaction that is
finished once begun, even when the caller is cancelled, so a revoke that reached storage is never left half-way
because an app hung up.

Shared state: the sets of running writes and of reads that were given up, touched by the event loop only.
"""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self, TypeVar

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from flowless.adapters.sql import schema
from flowless.adapters.sql.engines import Engines
from flowless.adapters.sql.pools import Pool
from flowless.adapters.sql.postgres import NoWakeups, PostgresWakeups, open_postgres
from flowless.adapters.sql.sqlite import open_sqlite
from flowless.adapters.sql.statements import StatementWatch, comment_with_request_id
from flowless.domain.audit import AuditEvent, chained_hash
from flowless.domain.revocations import Subject
from trust_core.errors import Reason, TrustError

T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MARGIN_SECONDS: Final = 0.5
_WRITE_SECONDS: Final = 30.0
"""Of one transaction on PostgreSQL whose connection says nothing; its statements have shorter limits."""
_ATTEMPTS: Final = 3
_SCHEMA_LOCK: Final = 0x7472_7573_746C
"""Any number that nobody else uses as an advisory lock: the word `trustl`."""
# PostgreSQL, appendix A: serialization_failure (CockroachDB asks for the retry with it), deadlock_detected.
_RETRIED: Final = frozenset(("40001", "40P01"))
_DISK_FULL: Final = "53100"
# lock_not_available, query_canceled (statement_timeout), too_many_connections.
_BUSY: Final = frozenset(("55P03", "57014", "53300"))


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """Inverse of `to_us`."""
    return _EPOCH + timedelta(microseconds=microseconds)


class Database:
    """One database. Use `open`, then `fetch`, `read` and `write`, then `close`."""

    def __init__(self, *, url: sa.URL, engines: Engines, timeout_seconds: float) -> None:
        self._url = url
        self.reader = engines.reader
        self.tail_reader = engines.tail_reader
        self._writer = Pool(name="write", engine=engines.writer)
        self._tail_pool = Pool(name="tail", engine=engines.tail_reader)
        self._readers = Pool(name="read", engine=engines.reader)
        self._timeout_seconds = timeout_seconds
        self._log_listeners: list[Callable[[], None]] = []
        self._writes: set[asyncio.Task[Any]] = set()
        self._abandoned: set[asyncio.Task[Any]] = set()

    @classmethod
    def open(
        cls,
        url: str,
        *,
        password: str | None = None,
        busy_timeout_seconds: float = 2.0,
        pool_size: int = 8,
        max_pages: int | None = None,
    ) -> Self:
        """Prepare engines for a `sqlite:///path` or `postgresql://…` URL; connects at first use.

        Who waits for a connection, for another writer or for the database's answer waits at most about
        `busy_timeout_seconds`, then gets STORAGE_UNAVAILABLE. `pool_size` is PostgreSQL's, in connections for reads.
        `password` takes the place of the URL's. `max_pages` bounds a SQLite file's size; over it is STORAGE_FULL.
        """
        parsed = sa.make_url(url)
        if password is not None:
            parsed = parsed.set(password=password)
        if parsed.get_backend_name() == "sqlite":
            engines = open_sqlite(parsed, timeout_seconds=busy_timeout_seconds, max_pages=max_pages)
        else:
            engines = open_postgres(parsed, timeout_seconds=busy_timeout_seconds, pool_size=pool_size)
            comment_with_request_id(engines.writer)
        return cls(url=parsed, engines=engines, timeout_seconds=busy_timeout_seconds)

    @property
    def pools(self) -> tuple[Pool, ...]:
        """All pools of connections."""
        return self._readers, self._writer, self._tail_pool

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.reader.dialect.name

    def watch_statements(self, watch: StatementWatch) -> None:
        """Let every statement from now on be timed."""
        for pool in self.pools:
            watch.listen(pool.engine)

    def when_log_written(self, listener: Callable[[], None]) -> None:
        """Call the listener in the event loop after each commit that wrote the revocation log."""
        self._log_listeners.append(listener)

    def wakeups(self, *, on_wake: Callable[[], None]) -> PostgresWakeups | NoWakeups:
        """Make the wake-ups between processes, which from now on are told of every commit that wrote the log.

        Processes over SQLite are on one machine and find each other's writes by polling.
        """
        if self.dialect != "postgresql":
            return NoWakeups()
        wakeups = PostgresWakeups(url=self._url, timeout_seconds=self._timeout_seconds, on_wake=on_wake)
        self.when_log_written(wakeups.notify)
        return wakeups

    async def close(self) -> None:
        """Finish running writes, then close all connections."""
        while self._writes or self._abandoned:
            await asyncio.wait(self._writes | self._abandoned)
        for pool in self.pools:
            await pool.engine.dispose()

    async def fetch(
        self,
        statement: sa.Executable,
        parameters: Mapping[str, Any] | None = None,
        *,
        engine: AsyncEngine | None = None,
    ) -> Sequence[sa.RowMapping]:
        """Read all rows of one statement, through the shared readers unless told otherwise.

        A caller that is cancelled stops the read. A database that says nothing is not waited for: the statement is
        given up in its own time, and its connection with it.
        """
        pool = self._tail_pool if engine is self.tail_reader else self._readers
        return await self._bounded(self._fetch(statement, parameters, pool))

    async def _fetch(
        self, statement: sa.Executable, parameters: Mapping[str, Any] | None, pool: Pool
    ) -> Sequence[sa.RowMapping]:
        with translated():
            async with pool.entered(pool.engine.connect()) as connection:
                return (await connection.execute(statement, parameters)).mappings().all()

    async def _bounded(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        try:
            # A connection, the statement and a margin, so that the database's own word comes first.
            await asyncio.wait({task}, timeout=2 * self._timeout_seconds + _MARGIN_SECONDS)
        finally:
            if not task.done():
                task.cancel()
                self._abandoned.add(task)
                task.add_done_callback(self._given_up)
        if not task.done():
            raise TrustError(Reason.STORAGE_UNAVAILABLE, "the database does not answer; retry")
        return task.result()

    def _given_up(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection for reading the schema, with no bound but the driver's."""
        with translated():
            async with self._readers.entered(self.reader.connect()) as connection:
                yield connection

    async def write(self, work: Callable[["WriteTransaction"], Awaitable[T]]) -> T:
        """Run `work` in one write transaction and commit it; roll back when it raises.

        A cancelled caller stops waiting; the transaction goes on to its end. So does one whose database says nothing
        for longer than a caller waits: what became of it is not known then, and asking again is safe. Two
        transactions that wait for each other are undone by the database, and run again here a few times.
        """
        task = asyncio.ensure_future(self._write(work))
        self._writes.add(task)
        task.add_done_callback(self._finished)
        await asyncio.wait({task}, timeout=_ATTEMPTS * (2 * self._timeout_seconds + _MARGIN_SECONDS))
        if not task.done():
            raise TrustError(Reason.STORAGE_UNAVAILABLE, "the database does not answer; retry")
        return task.result()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # seen: a caller that went away must not leave a warning behind

    async def _write(self, work: Callable[["WriteTransaction"], Awaitable[T]]) -> T:
        with translated():
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    return await self._write_once(work)
                except sa.exc.DBAPIError as error:
                    if attempt == _ATTEMPTS or getattr(error.orig, "sqlstate", None) not in _RETRIED:
                        raise
            raise AssertionError("unreachable: the last attempt returns or raises")

    async def _write_once(self, work: Callable[["WriteTransaction"], Awaitable[T]]) -> T:
        async with asyncio.timeout(_WRITE_SECONDS if self.dialect == "postgresql" else None):
            async with self._writer.entered(self._writer.engine.begin()) as connection:
                transaction = WriteTransaction(connection)
                result = await work(transaction)
        if transaction.wrote_log:
            for listener in self._log_listeners:
                listener()
        return result

    @asynccontextmanager
    async def schema_connection(self) -> AsyncIterator[AsyncConnection]:
        """Give a transaction for the migrations, or for work on every row: one at a time, without a time limit.

        On PostgreSQL the one at a time is an advisory lock, so that replicas that start together migrate once.
        """
        with translated():
            async with self._writer.entered(self._writer.engine.begin()) as connection:
                if self.dialect == "postgresql":
                    await connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                    await connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
                    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
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

    async def audit(self, event: AuditEvent | None) -> None:
        """Append to the audit log, as the last thing that the transaction does: every other lock comes first.

        Without an event nothing is written. The head's row lock is held until commit, so events become visible in
        their order and the chain has one end.
        """
        if event is None:
            return
        head = schema.audit_head
        taken = sa.update(head).values(sequence=head.c.sequence + 1).returning(head.c.sequence, head.c.hash)
        sequence, previous = (await self.connection.execute(taken)).one()
        time_us = to_us(event.time)
        hashed = chained_hash(bytes(previous), sequence, time_us, event)
        await self.connection.execute(
            sa.insert(schema.audit_events).values(
                sequence=sequence,
                time_us=time_us,
                action=str(event.action),
                outcome=str(event.outcome),
                actor=event.actor,
                subject=event.subject,
                user_id=event.user_id,
                client_ip=event.client_ip,
                request_id=event.request_id,
                details=json.dumps(dict(event.details), ensure_ascii=True, sort_keys=True),
                hash=hashed,
            )
        )
        await self.connection.execute(sa.update(head).values(hash=hashed))

    async def log_end(self) -> int:
        """Read the log's end inside this transaction."""
        return int((await self.connection.execute(sa.select(schema.log_head.c.revision))).scalar_one())


class translated:  # noqa: N801 - reads as a statement: `with translated():`
    """Turn every driver exception into STORAGE_FULL or STORAGE_UNAVAILABLE.

    IntegrityError passes: stores decide what a broken constraint means and let none of them out.
    """

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Translate."""
        if isinstance(error, sa.exc.IntegrityError) or not isinstance(
            error, sa.exc.SQLAlchemyError | sqlite3.Error | psycopg.Error | OSError
        ):
            return
        driver_error = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        code = getattr(driver_error, "sqlite_errorcode", 0) & 0xFF
        sqlstate = getattr(driver_error, "sqlstate", None) or ""
        if code == sqlite3.SQLITE_FULL or sqlstate == _DISK_FULL:
            raise TrustError(Reason.STORAGE_FULL, "the database's disk is full; free space and retry") from error
        busy = code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or sqlstate in _BUSY
        if busy or isinstance(error, sa.exc.TimeoutError | TimeoutError):
            raise TrustError(Reason.STORAGE_UNAVAILABLE, "the database is busy; retry") from error
        raise TrustError(Reason.STORAGE_UNAVAILABLE, "the database cannot be used now; retry") from error
