"""`flowless serve`, `flowless dev`, `flowless migrate`."""

import asyncio
import base64
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from flowless.adapters.paseto import WRAPPING_KEY_BYTES
from flowless.adapters.sql.migrate import SchemaError, current_version, migrate
from flowless.bootstrap import open_database, open_flowless
from flowless.cli.common import (
    BY,
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
from flowless.serving import serve
from flowless.workers import Supervisor, reserved
from trust_core.errors import Reason, TrustError
from trust_core.unix_socket import SocketError

DEV_BRIDGE = "dev"
_STOP_MARGIN_SECONDS: Final = 5.0


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("serve")(_serve)
    app.command("dev")(_dev)
    app.command("migrate")(_migrate)


def _announce(address: str) -> None:
    typer.echo(f"flowless listening on {address}")


def _run_workers(settings: Settings, config: Path | None) -> None:
    """Serve with several processes; their failure is ours."""
    try:
        with reserved(settings.listen) as address:
            arguments = ["--workers", str(settings.workers), "--worker-listen", address]
            if config is not None:
                arguments += ["--config", str(config)]
            supervisor = Supervisor(
                workers=settings.workers,
                arguments=arguments,
                stop_seconds=settings.lame_duck_seconds
                + settings.drain_seconds
                + (settings.smtp_timeout_seconds if settings.smtp_url is not None else 0)
                + _STOP_MARGIN_SECONDS,
            )
            code = asyncio.run(supervisor.run(on_ready=lambda: _announce(address)))
    except OSError as error:
        fail(str(error), EXIT_SETTINGS)
    if code:
        raise typer.Exit(code)


def _run_server(settings: Settings, *, worker_index: int | None = None) -> None:
    try:
        asyncio.run(serve(settings, on_ready=_announce, worker_index=worker_index))
    except SchemaError as error:
        fail(str(error), EXIT_SETTINGS)
    except (OSError, SocketError) as error:
        fail(str(error), EXIT_SETTINGS)
    except TrustError as error:
        fail(error.message, exit_code_of(error))


def _serve(
    config: ConfigOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that serve the port together; FLOWLESS_WORKERS, else 1.")
    ] = None,
    worker_index: Annotated[int | None, typer.Option(hidden=True)] = None,
    worker_listen: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve until SIGTERM, then drain. Prints one line on standard output when ready; logs go to standard error.

    \b
    Examples:
      flowless migrate && flowless serve
      FLOWLESS_LISTEN=127.0.0.1:7600 FLOWLESS_DATABASE_URL=sqlite:////var/lib/flowless/flowless.db flowless serve
      flowless serve --config /etc/flowless/flowless.toml --workers 4
    """
    given = {"workers": workers, "listen": worker_listen}
    settings = settings_from(
        config, worker=worker_index, **{name: value for name, value in given.items() if value is not None}
    )
    if worker_index is None and settings.workers > 1:
        _run_workers(settings, config)
    else:
        _run_server(settings, worker_index=worker_index)


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
        Path, typer.Option(help="Where the database and the secrets are kept; created if missing.")
    ] = Path(".flowless"),
    listen: Annotated[str, typer.Option(help="Loopback address or Unix socket.")] = "127.0.0.1:7600",
) -> None:
    """Serve for development: migrate, make a bridge and signing keys, turn reflection on, all in one directory.

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
    signing_key_file = data_dir / "signing-key"
    if not signing_key_file.exists():
        _write_private(signing_key_file, base64.b64encode(os.urandom(WRAPPING_KEY_BYTES)).decode("ascii"))
    settings = settings_from(
        None,
        database_url=f"sqlite:///{data_dir / 'flowless.db'}",
        signing_key_file=signing_key_file,
        listen=listen,
        reflection=True,
        workers=1,
    )
    if not settings.is_local:
        fail("dev listens on loopback or a Unix socket only", EXIT_SETTINGS)
    secret_file = data_dir / "bridge-secret"
    kept = secret_file.read_text().strip() if secret_file.exists() else ""

    async def prepare() -> str:
        await _migrated(settings)
        async with open_flowless(settings) as flowless:
            if not await flowless.keys.public_texts():
                await flowless.keys.rotate(overlap=timedelta(0), by=BY)
            return await _dev_secret(flowless.bridges, kept)

    try:
        secret = asyncio.run(prepare())
    except SchemaError as error:
        fail(str(error), EXIT_SETTINGS)
    except TrustError as error:
        fail(error.message, EXIT_STORAGE)
    if secret != kept:
        secret_file.unlink(missing_ok=True)
        _write_private(secret_file, secret)
    typer.echo(f"bridge secret file: {secret_file}", err=True)
    _run_server(settings)


def _write_private(path: Path, secret: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secret + "\n")


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
        new = await bridges.create(DEV_BRIDGE, frozenset(Scope), by=BY)
    except TrustError as taken:
        if taken.reason is not Reason.BRIDGE_NAME_TAKEN:
            raise
        new = await bridges.rotate((await bridges.find(DEV_BRIDGE)).id, overlap=timedelta(0), by=BY)
    return new.secret
