"""What only a database server can do: migrate for several replicas at once, hold a writer up, go away, come back."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from flowless.adapters.sql.database import Database, WriteTransaction
from flowless.adapters.sql.migrate import SchemaError, current_version, migrate, newest_version, require_served
from flowless.adapters.sql.postgres import CHANNEL
from flowless.adapters.sql.restore import revoke_after_restore
from flowless.adapters.sql.revocation_log import SqlRevocationLog
from flowless.adapters.sql.schema import metadata
from flowless.domain.sessions import SessionActivity
from tests.support.databases import new_postgres_database
from tests.support.report_log import log_into_report
from tests.support.stores import BY, NOW, SECOND, Stores, fresh_digest, over
from tools.postgres_server import PostgresServer
from trust_core.errors import Reason, TrustError

ENOUGH = 30.0
BUSY_SECONDS = 0.3


@pytest.fixture
def url() -> Iterator[str]:
    with new_postgres_database() as made:
        yield made


@pytest.fixture
def empty_url() -> Iterator[str]:
    with new_postgres_database(migrated=False) as made:
        yield made


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    log_into_report(level="error")
    yield
    log_into_report()


@asynccontextmanager
async def _opened(url: str, *, busy_timeout_seconds: float = 5.0) -> AsyncIterator[tuple[Database, Stores]]:
    database = Database.open(url, busy_timeout_seconds=busy_timeout_seconds)
    try:
        yield database, over(database)
    finally:
        await database.close()


async def _reason(call: Awaitable[object]) -> Reason:
    async with asyncio.timeout(ENOUGH):
        with pytest.raises(TrustError) as caught:
            await call
    return caught.value.reason


async def test_the_migrations_make_on_postgres_what_the_schema_declares(empty_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, metadata))

    async with _opened(empty_url) as (database, _):
        with pytest.raises(SchemaError, match="missing: run `flowless migrate`"):
            await require_served(database)
        assert await migrate(database) == newest_version()
        async with database.read() as connection:
            assert await connection.run_sync(differences) == []
        await require_served(database)


async def test_replicas_that_start_together_migrate_once(empty_url: str) -> None:
    databases = [Database.open(empty_url) for _ in range(5)]
    async with asyncio.timeout(ENOUGH):
        assert await asyncio.gather(*(migrate(d) for d in databases)) == [newest_version()] * 5
    heads = [await SqlRevocationLog(database=opened).head() for opened in databases]
    assert len(set(heads)) == 1, "a second migration would have given the log another name"
    for opened in databases:
        await opened.close()


async def test_a_schema_that_is_too_new_is_refused_and_left_alone(url: str) -> None:
    async with _opened(url) as (database, _):
        async with database.schema_connection() as connection:
            await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        for attempt in (require_served(database), migrate(database)):
            with pytest.raises(SchemaError, match="newer than this Flowless"):
                await attempt
        assert await current_version(database) == "9999"
        async with database.schema_connection() as connection:
            await connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{newest_version()}'")


async def test_a_later_revision_waits_for_an_earlier_one_that_is_not_committed_yet(url: str) -> None:
    """Ids of a sequence would not: the second writer would commit 2 while 1 is still invisible, and a reader who has
    seen 2 never looks back."""
    async with _opened(url) as (first, one), _opened(url) as (_, two):
        early = await one.add_session(await one.add_user())
        late = await one.add_session(await one.add_user())
        appended, let_go = asyncio.Event(), asyncio.Event()

        async def held(tx: WriteTransaction) -> int:
            revision = await tx.append("session", early.digest.hex(), now=NOW)
            appended.set()
            await let_go.wait()
            return revision

        writing = asyncio.ensure_future(first.write(held))
        await appended.wait()
        waiting = asyncio.ensure_future(two.sessions.revoke(late.digest, now=NOW))
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done
        assert (await two.end(), await two.rows()) == (0, []), "nothing is visible, neither the first nor the second"
        assert await two.is_live(late), "the effect is not visible before its row"
        let_go.set()
        async with asyncio.timeout(ENOUGH):
            assert (await writing, await waiting) == (1, 2)
        assert [row.revision for row in await two.rows()] == [1, 2]


async def test_a_writer_that_waits_too_long_for_another_is_told_so(url: str) -> None:
    async with _opened(url) as (holder, stores), _opened(url, busy_timeout_seconds=BUSY_SECONDS) as (_, hurried):
        session = await stores.add_session(await stores.add_user())
        appended, let_go = asyncio.Event(), asyncio.Event()

        async def held(tx: WriteTransaction) -> None:
            await tx.append("user", "usr", now=NOW)
            appended.set()
            await let_go.wait()

        writing = asyncio.ensure_future(holder.write(held))
        await appended.wait()
        assert await _reason(hurried.sessions.revoke(session.digest, now=NOW)) is Reason.STORAGE_UNAVAILABLE
        assert await hurried.is_live(session)
        let_go.set()
        await writing
        assert await hurried.sessions.revoke(session.digest, now=NOW) == 2


async def test_more_callers_than_connections_wait_a_bounded_time(url: str) -> None:
    async with asyncio.timeout(ENOUGH):
        database = Database.open(url, busy_timeout_seconds=BUSY_SECONDS, pool_size=1)
        sleep = sa.select(sa.func.pg_sleep(0.25))
        results = await asyncio.gather(*(database.fetch(sleep) for _ in range(5)), return_exceptions=True)
        refused = [result for result in results if isinstance(result, TrustError)]
        assert 0 < len(refused) < 5
        assert {error.reason for error in refused} == {Reason.STORAGE_UNAVAILABLE}
        await database.close()


async def test_two_transactions_that_wait_for_each_other_both_end_well(url: str) -> None:
    async with _opened(url) as (database, stores):
        sessions = [await stores.add_session(await stores.add_user()) for _ in range(2)]
        reached = [asyncio.Event(), asyncio.Event()]

        def crossing(mine: int) -> Awaitable[None]:
            async def work(tx: WriteTransaction) -> None:
                for number in (mine, 1 - mine):
                    await tx.connection.execute(
                        sa.text("UPDATE sessions SET device_name = 'x' WHERE digest = :digest"),
                        {"digest": sessions[number].digest},
                    )
                    reached[mine].set()
                    await reached[1 - mine].wait()

            return database.write(work)

        async with asyncio.timeout(ENOUGH):
            await asyncio.gather(crossing(0), crossing(1))


async def test_reports_of_the_same_sessions_in_any_order_never_get_in_each_others_way(url: str) -> None:
    async with _opened(url) as (_, stores):
        user = await stores.add_user()
        activities = [
            SessionActivity(digest=(await stores.add_session(user)).digest, idle_for=SECOND) for _ in range(50)
        ]
        async with asyncio.timeout(ENOUGH):
            await asyncio.gather(
                *(
                    stores.sessions.touch(
                        activities[:: (-1) ** n], bridge_id="b", now=NOW + n * SECOND, interval_seconds=0
                    )
                    for n in range(1, 9)
                )
            )


async def test_a_wake_up_reaches_other_processes_and_not_before_the_row_is_visible(url: str) -> None:
    async with _opened(url) as (writer, stores), _opened(url) as (reader, other):
        session = await stores.add_session(await stores.add_user())
        woken = asyncio.Event()
        hearing, saying = reader.wakeups(on_wake=woken.set), writer.wakeups(on_wake=lambda: None)
        tasks = [asyncio.ensure_future(wakeups.run()) for wakeups in (hearing, saying)]
        async with asyncio.timeout(ENOUGH):
            await woken.wait()  # it listens from now on
            woken.clear()
            revision = await stores.sessions.revoke(session.digest, now=NOW)
            await woken.wait()
            assert await other.end() == revision
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_wake_ups_whose_connection_is_cut_come_back(url: str) -> None:
    async with _opened(url) as (database, stores):
        woken = asyncio.Event()
        running = asyncio.ensure_future(database.wakeups(on_wake=woken.set).run())
        async with asyncio.timeout(ENOUGH):
            await woken.wait()
            woken.clear()
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE %s",
                    (f"LISTEN {CHANNEL}",),
                )
            await woken.wait()
            woken.clear()
            await stores.sessions.revoke((await stores.add_session(await stores.add_user())).digest, now=NOW)
            await woken.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_after_a_restore_no_session_is_live_and_the_log_is_another(url: str) -> None:
    async with _opened(url) as (database, stores):
        users = [await stores.add_user() for _ in range(3)]
        sessions = [await stores.add_session(user) for user in users for _ in range(2)]
        before = await stores.log.head()
        assert await revoke_after_restore(database, now=NOW, by=BY) == 3
        after = await stores.log.head()
        assert after.log_id != before.log_id
        assert [await stores.is_live(session) for session in sessions] == [False] * 6
        assert await stores.is_live(await stores.add_session(users[0]))


@contextmanager
def _server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        server.execute("CREATE DATABASE flowless")
        yield server


async def test_a_server_that_restarts_or_hangs_is_unavailable_meanwhile_and_costs_no_error_afterwards() -> None:
    with _server() as server:
        async with _opened(server.url("flowless"), busy_timeout_seconds=2 * BUSY_SECONDS) as (database, stores):
            await migrate(database)
            user = await stores.add_user()
            sessions = [await stores.add_session(user) for _ in range(9)]

            async def all_connections_in_use() -> None:
                # As many as there are: on a busy machine, who waits for one might wait too long.
                await asyncio.gather(*(stores.sessions.read(fresh_digest()) for _ in range(8)))

            for end, come_back in ((server.stop, server.start), (server.kill, server.start)):
                await all_connections_in_use()
                end()
                assert await _reason(stores.sessions.read(sessions[0].digest)) is Reason.STORAGE_UNAVAILABLE
                assert await _reason(stores.sessions.revoke_handle("x", now=NOW)) is Reason.STORAGE_UNAVAILABLE
                come_back()
                await all_connections_in_use()
                assert await stores.sessions.revoke(sessions.pop().digest, now=NOW) == 9 - len(sessions)
            await all_connections_in_use()
            server.pause()
            began = time.monotonic()
            assert await _reason(stores.sessions.read(sessions[0].digest)) is Reason.STORAGE_UNAVAILABLE
            assert await _reason(stores.sessions.revoke(sessions[0].digest, now=NOW)) is Reason.STORAGE_UNAVAILABLE
            waited = time.monotonic() - began
            server.resume()
            assert waited < ENOUGH / 2, "whoever waits for a server that hangs is answered in bounded time"
            async with asyncio.timeout(ENOUGH):
                await all_connections_in_use()
                while await stores.is_live(sessions[0]):  # the write that was left behind may still be under way
                    await stores.sessions.revoke(sessions[0].digest, now=NOW)
            assert await stores.is_live(sessions[1])
