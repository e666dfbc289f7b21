"""`flowless serve`, `flowless dev`, `flowless migrate`."""

import asyncio
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from flowless.adapters.sql.migrate import SchemaError, current_version, migrate
from flowless.bootstrap import open_database, open_flowless, serve
from flowless.cli.common import (
    EXIT_SETTINGS,
    EXIT_STORAGE,
    ConfigOption,
    JsonOption,
    exit_code_of,
    fail,
    settings_from,
)
from flowless.config import Settings
from flowless.domain.bridges import Scope
from flowless.services.bridges import Bridges
from trust_core.errors import Reason, TrustError
from trust_core.unix_socket import SocketError

DEV_BRIDGE = "dev"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("serve")(_serve)
    app.command("dev")(_dev)
    app.command("migrate")(_migrate)


def _announce(address: str) -> None:
    typer.echo(f"flowless listening on {address}")


def _run_server(settings: Settings) -> None:
    try:
        asyncio.run(serve(settings, on_ready=_announce))
    except SchemaError as error:
        fail(str(error), EXIT_SETTINGS)
    except (OSError, SocketError) as error:
        fail(str(error), EXIT_SETTINGS)
    except TrustError as error:
        fail(error.message, exit_code_of(error))


def _serve(config: ConfigOption = None) -> None:
    """Serve until SIGTERM, then drain. Prints one line on standard output when ready; logs go to standard error.

    \b
    Examples:
      flowless migrate && flowless serve
      FLOWLESS_LISTEN=127.0.0.1:7600 FLOWLESS_DATABASE_URL=sqlite:////var/lib/flowless/flowless.db flowless serve
      flowless serve --config /etc/flowless/flowless.toml
    """
    _run_server(settings_from(config))


async def _migrated(settings: Settings) -> tuple[str | None, str]:
    database = open_database(settings)
    try:
        before = await current_version(database)
        return before, await migrate(database)
    finally:
        await database.close()


def _migrate(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Create the schema, or bring it to the version that this Flowless needs. Does nothing when it is there.

    \b
    Examples:
      flowless migrate
      FLOWLESS_DATABASE_URL=sqlite:////var/lib/flowless/flowless.db flowless migrate --json
    """
    settings = settings_from(config)
    try:
        before, after = asyncio.run(_migrated(settings))
    except SchemaError as error:
        fail(str(error), EXIT_SETTINGS)
    except TrustError as error:
        fail(error.message, exit_code_of(error))
    if as_json:
        typer.echo(json.dumps({"before": before, "after": after}))
    elif before == after:
        typer.echo(f"schema {after} is there already")
    else:
        typer.echo(f"schema migrated from {before or 'nothing'} to {after}")


def _dev(
    data_dir: Annotated[
        Path, typer.Option(help="Where the database and the bridge secret are kept; created if missing.")
    ] = Path(".flowless"),
    listen: Annotated[str, typer.Option(help="Loopback address or Unix socket.")] = "127.0.0.1:7600",
) -> None:
    """Serve for development: migrate, make a bridge with all scopes, turn reflection on, keep all in one directory.

    \b
    Examples:
      flowless dev
      flowless dev --data-dir /tmp/flowless --listen 127.0.0.1:0
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        fail(f"{data_dir} cannot be used as a directory: {error.strerror}", EXIT_SETTINGS)
    data_dir = data_dir.resolve()
    settings = settings_from(
        None, database_url=f"sqlite:///{data_dir / 'flowless.db'}", listen=listen, reflection=True
    )
    if not settings.is_local:
        fail("dev listens on loopback or a Unix socket only", EXIT_SETTINGS)
    secret_file = data_dir / "bridge-secret"
    kept = secret_file.read_text().strip() if secret_file.exists() else ""

    async def prepare() -> str:
        await _migrated(settings)
        async with open_flowless(settings) as flowless:
            return await _dev_secret(flowless.bridges, kept)

    try:
        secret = asyncio.run(prepare())
    except SchemaError as error:
        fail(str(error), EXIT_SETTINGS)
    except TrustError as error:
        fail(error.message, EXIT_STORAGE)
    if secret != kept:
        secret_file.unlink(missing_ok=True)
        with os.fdopen(os.open(secret_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret + "\n")
    typer.echo(f"bridge secret file: {secret_file}", err=True)
    _run_server(settings)


async def _dev_secret(bridges: Bridges, kept: str) -> str:
    """Secret of the development bridge: the one kept in the file, or a new one if file or database was lost."""
    try:
        await bridges.authenticate(kept)
    except TrustError as error:
        if error.reason is not Reason.BRIDGE_CREDENTIAL_REFUSED:
            raise
    else:
        return kept
    try:
        new = await bridges.create(DEV_BRIDGE, frozenset(Scope))
    except TrustError as taken:
        if taken.reason is not Reason.BRIDGE_NAME_TAKEN:
            raise
        new = await bridges.rotate((await bridges.find(DEV_BRIDGE)).id, overlap=timedelta(0))
    return new.secret
