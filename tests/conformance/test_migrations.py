"""The migrations make the schema that the code declares, whole or not at all."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from flowless.adapters.sql import migrate as migrations
from flowless.adapters.sql.database import Database
from flowless.adapters.sql.migrate import SchemaError, current_version, migrate, newest_version, require_served
from flowless.adapters.sql.revocation_log import SqlRevocationLog
from flowless.adapters.sql.schema import metadata
from tests.support.stores import sqlite_url
from trust_core.errors import Reason, TrustError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "flowless.db"


@pytest.fixture
async def database(file: Path) -> AsyncIterator[Database]:
    """An empty database."""
    opened = Database.open(sqlite_url(file))
    yield opened
    await opened.close()


def _set_version(file: Path, version: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        assert connection.execute("UPDATE alembic_version SET version_num = ?", (version,)).rowcount == 1


def _tables(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


async def test_the_migrations_make_what_the_schema_declares(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, metadata))

    assert await migrate(database) == newest_version()
    async with database.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_migrating_again_changes_nothing(database: Database) -> None:
    await migrate(database)
    head = await SqlRevocationLog(database=database).head()
    assert await migrate(database) == newest_version()
    assert await SqlRevocationLog(database=database).head() == head


async def test_two_that_migrate_at_once_do_it_once(file: Path) -> None:
    async def migrated(database: Database) -> str:
        """Migrate; while the other one creates the file, the answer may be to retry."""
        while True:
            try:
                return await migrate(database)
            except TrustError as error:
                if error.reason is not Reason.STORAGE_UNAVAILABLE:
                    raise

    databases = [Database.open(sqlite_url(file), busy_timeout_seconds=10) for _ in range(2)]
    async with asyncio.timeout(30):
        assert await asyncio.gather(*(migrated(d) for d in databases)) == [newest_version()] * 2
    heads = [await SqlRevocationLog(database=opened).head() for opened in databases]
    assert heads[0] == heads[1]
    for opened in databases:
        await opened.close()


async def test_every_database_has_a_log_with_a_name_of_its_own(database: Database, tmp_path: Path) -> None:
    other = Database.open(sqlite_url(tmp_path / "other.db"))
    for opened in (database, other):
        await migrate(opened)
    names = {(await SqlRevocationLog(database=opened).head()).log_id for opened in (database, other)}
    await other.close()
    assert len(names) == 2


async def test_a_migration_that_fails_leaves_nothing_behind(database: Database, file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE bridges (in_the_way)")
    with pytest.raises(TrustError):
        await migrate(database)
    assert not (_tables(file) & {"users", "sessions", "log_head"})
    assert await current_version(database) is None


async def test_a_current_schema_is_accepted(database: Database) -> None:
    assert await current_version(database) is None
    await migrate(database)
    assert await current_version(database) == newest_version()
    await require_served(database)


async def test_a_missing_schema_names_the_command_that_makes_it(database: Database) -> None:
    with pytest.raises(SchemaError, match="missing: run `flowless migrate`"):
        await require_served(database)


async def test_a_schema_that_is_too_old_names_the_command_that_mends_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(database)
    monkeypatch.setattr(migrations, "newest_version", lambda: "9999")
    with pytest.raises(SchemaError, match="too old: run `flowless migrate`"):
        await require_served(database)


@pytest.mark.parametrize("version", ["9999", "9999_9998", "9999_", "0000_0000", "9999_0001_x"])
async def test_a_schema_of_a_newer_flowless_is_neither_used_nor_touched(
    database: Database, file: Path, version: str
) -> None:
    await migrate(database)
    _set_version(file, version)
    for attempt in (require_served(database), migrate(database)):
        with pytest.raises(SchemaError, match="newer than this Flowless"):
            await attempt
    assert await current_version(database) == version


async def test_a_newer_schema_that_leaves_this_flowless_what_it_needs_is_used_and_not_touched(
    database: Database, file: Path
) -> None:
    await migrate(database)
    newer = f"9999_{newest_version()[:4]}"
    _set_version(file, newer)
    await require_served(database)
    assert await migrate(database) == newer
    assert await current_version(database) == newer


def test_versions_of_the_schema_are_numbered_in_order_and_say_who_can_serve_on_them() -> None:
    versions = [script.revision for script in migrations._script().walk_revisions()][::-1]
    assert [version[:4] for version in versions] == [f"{number:04}" for number in range(1, len(versions) + 1)]
    assert all(migrations._VERSION.fullmatch(version) for version in versions)
