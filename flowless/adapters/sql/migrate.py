"""Bring a database's schema to the version that this Flowless needs, or say that it is not there.

A schema's version says which Flowless can serve on it. `0007` is for those that know version 7. `0007_0006` changes
nothing that a Flowless of version 6 relies on: it only adds, so a replica of the version before goes on while the new
ones start, starts again itself, and is what a rollback returns to. So the name alone, which stands in the database,
tells an older Flowless about migrations that it has never seen.
"""

import re
import secrets
from functools import cache
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from flowless.adapters.sql.database import Database

_LOCATION: Final = "flowless.adapters.sql:migrations"
_VERSION: Final = re.compile(r"(\d{4})(?:_(\d{4}))?", re.ASCII)


class SchemaError(Exception):
    """The schema is not the one that this Flowless needs; the text says which command to run."""


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", _LOCATION)
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["log_id"] = secrets.token_hex(16)
    return config


@cache
def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def newest_version() -> str:
    """Version of the schema that this Flowless needs."""
    head = _script().get_current_head()
    assert head is not None, "the package always holds at least one migration"  # noqa: S101
    return head


async def migrate(database: Database) -> str:
    """Apply the missing migrations in one transaction; return the version reached.

    A newer schema that this Flowless can serve on is left as it is: a rollback runs this too. Raises SchemaError for
    any other that is newer than this Flowless.
    """
    found = await current_version(database)
    if found is not None and found not in _known_versions():
        _require_served(found)
        return found

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


async def require_served(database: Database) -> None:
    """Raise SchemaError unless the schema is the one needed, or a newer one on which this Flowless can serve."""
    found = await current_version(database)
    if found != newest_version():
        _require_served(found)


def _require_served(found: str | None) -> None:
    if found is None or found in _known_versions():
        raise SchemaError(
            f"the database schema is {'missing' if found is None else 'too old'}: run `flowless migrate`"
        )
    version, ours = _VERSION.fullmatch(found), newest_version()[:4]
    if version is None or version[2] is None or not version[2] <= ours < version[1]:
        raise SchemaError("the database schema is newer than this Flowless: run the newer Flowless that migrated it")


def _known_versions() -> set[str]:
    return {script.revision for script in _script().walk_revisions()}
