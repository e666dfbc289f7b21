"""PostgreSQL for tests: one server in each test process, started when the first test asks for it, ended with the run.

`TRUSTLAYER_TEST_POSTGRES_URL` names an existing server instead; its user must be allowed to create databases. Every
test gets a database to itself, which is emptied after it for the next one.
"""

import asyncio
import itertools
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
import sqlalchemy as sa

from flowless.adapters.sql.database import Database
from flowless.adapters.sql.migrate import migrate
from flowless.adapters.sql.schema import metadata
from flowless.domain.audit import NO_HASH
from tools.postgres_server import PostgresServer

_EXISTING: Final = "TRUSTLAYER_TEST_POSTGRES_URL"
_PREFIX: Final = f"tl_{os.getpid()}_"
_counter = itertools.count(1)
_server: list[PostgresServer] = []
_made: list[str] = []
_free: list[str] = []


def server() -> PostgresServer:
    """This process' server. Tests that stop or pause a server start one of their own."""
    if not _server:
        started = PostgresServer()
        started.start()
        _server.append(started)
    return _server[0]


def stop() -> None:
    """End the server, or drop what was made in an existing one. Called at the end of the run, also after Ctrl-C."""
    if _EXISTING in os.environ:
        for name in _made:
            _execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    _made.clear()
    while _server:
        _server.pop().remove()


def _url(database: str | None = None) -> str:
    if existing := os.environ.get(_EXISTING):
        url = sa.make_url(existing)
        return (url.set(database=database) if database else url).render_as_string(hide_password=False)
    return server().url(database or "postgres")


def _execute(statement: str) -> None:
    with psycopg.connect(_url(), autocommit=True) as connection:
        connection.execute(statement.encode())


async def _migrate(url: str) -> None:
    database = Database.open(url)
    try:
        await migrate(database)
    finally:
        await database.close()


def _in_a_loop_of_its_own(work: Any) -> None:
    """Tests call from inside a running loop: the work gets a thread, and with it a loop."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _create(*, migrated: bool) -> str:
    name = f"{_PREFIX}{next(_counter)}"
    _execute(f'CREATE DATABASE "{name}"')
    _made.append(name)
    if migrated:
        _in_a_loop_of_its_own(_migrate(_url(name)))
    return name


def _empty(name: str) -> None:
    tables = ", ".join(table.name for table in metadata.sorted_tables if table.name not in ("log_head", "audit_head"))
    with psycopg.connect(_url(name), autocommit=True) as connection:
        # Whoever a test left behind would keep its locks.
        connection.execute(
            b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            b"WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute(f"TRUNCATE {tables}".encode())
        connection.execute(
            "UPDATE audit_head SET sequence = 0, hash = %(none)s, pruned_through = 0, pruned_hash = %(none)s",
            {"none": NO_HASH},
        )
        connection.execute(
            "UPDATE log_head SET revision = 0, compacted_through = 0, log_id = %s", (secrets.token_hex(16),)
        )


@contextmanager
def new_postgres_database(*, migrated: bool = True) -> Iterator[str]:
    """Give a test a database to itself; the URL of one that is empty, with the schema or without."""
    if not migrated:
        yield _url(_create(migrated=False))
        return
    name = _free.pop() if _free else _create(migrated=True)
    yield _url(name)
    # After a failure it is not given to another test.
    _empty(name)
    _free.append(name)
