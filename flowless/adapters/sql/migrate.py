"""Bring a database's schema to the version that this Flowless needs, or say that it is not there."""

import secrets
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from flowless.adapters.sql.database import Database

_LOCATION: Final = "flowless.adapters.sql:migrations"


class SchemaError(Exception):
    """The schema is not the one that this Flowless needs; the text says which command to run."""


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", _LOCATION)
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["log_id"] = secrets.token_hex(16)
    return config


def newest_version() -> str:
    """Version of the schema that this Flowless needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None, "the package always holds at least one migration"  # noqa: S101
    return head


async def migrate(database: Database) -> str:
    """Apply the missing migrations in one transaction; return the version reached.

    Raises SchemaError when the schema is newer than this Flowless.
    """
    found = await current_version(database)
    if found is not None and found not in _known_versions():
        raise _newer()

    def upgrade(connection: Connection) -> None:
        command.upgrade(_config(connection), "head")

    async with database.schema_connection() as connection:
        await connection.run_sync(upgrade)
    return newest_version()


async def current_version(database: Database) -> str | None:
    """Version of the database's schema; `None` for an empty database."""

    def read(connection: Connection) -> Any:
        return MigrationContext.configure(connection).get_current_revision()

    async with database.read() as connection:
        version: str | None = await connection.run_sync(read)
    return version


async def require_current(database: Database) -> None:
    """Raise SchemaError unless the schema is exactly the one needed."""
    found, needed = await current_version(database), newest_version()
    if found == needed:
        return
    if found is None or found in _known_versions():
        raise SchemaError(
            f"the database schema is {'missing' if found is None else 'too old'}: run `flowless migrate`"
        )
    raise _newer()


def _known_versions() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _newer() -> SchemaError:
    return SchemaError("the database schema is newer than this Flowless: run the newer Flowless that migrated it")
