"""`flowless doctor`: is everything as it must be, and if not, how to mend it."""

import asyncio
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qs, urlsplit

import typer

from flowless.adapters.paseto import PasetoTokens
from flowless.adapters.sql.migrate import SchemaError, require_served
from flowless.adapters.sql.replicas import SqlReplicaRegistry
from flowless.adapters.sql.revocation_log import SqlRevocationLog
from flowless.adapters.sql.signing_keys import SqlSigningKeyStore
from flowless.bootstrap import open_database
from flowless.cli.common import EXIT_SETTINGS, ConfigOption, JsonOption, show
from flowless.config import ConfigError, Settings, load
from flowless.domain.replicas import ReplicaRecord, WatcherReport
from flowless.domain.signing_keys import KeyState, SigningKey
from flowless.serving import tls_files
from trust_core import logs
from trust_core.clock import SystemClock
from trust_core.errors import TrustError
from trust_core.tls_files import TlsFilesError

# Orchestrators put variables like these into every container when a service is named after the program.
_INJECTED: Final = re.compile(r"FLOWLESS_(?:SERVICE_(?:HOST|PORT.*)|PORT(?:_.*)?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, how it is, how to mend it."""

    check: str
    state: Literal["ok", "warn", "bad"]
    finding: str
    mend: str = ""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("doctor")(_doctor)


def _doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check settings, database, file permissions and clock; say how to mend each. Exits with 4 when something is bad.

    \b
    Examples:
      flowless doctor
      FLOWLESS_DATABASE_URL=sqlite:////var/lib/flowless/flowless.db flowless doctor --json
    """
    findings = _findings(config)
    rows = [{"check": f.check, "state": f.state, "finding": f.finding, "mend": f.mend} for f in findings]
    show(rows, as_json=as_json, empty="nothing to check")
    if any(f.state == "bad" for f in findings):
        raise typer.Exit(EXIT_SETTINGS)


def _findings(config: Path | None) -> list[Finding]:
    try:
        settings = load(config)
        settings.check_files()
    except ConfigError as error:
        return [
            Finding("settings", "bad", " ".join(str(error).split()), "correct the FLOWLESS_* variable or the file")
        ]
    logs.configure(level="error", style=settings.log_format)
    return [
        _settings(config, os.environ),
        *_transport(settings),
        *_secret_files(settings),
        _mail(settings),
        *(_files(settings.database_file) if settings.database_file else _server(settings)),
        *asyncio.run(_database(settings)),
        *_clock(),
    ]


def _settings(config: Path | None, environment: Mapping[str, str]) -> Finding:
    """Name variables that no setting reads: a mistyped one is silent everywhere else."""
    known = {f"FLOWLESS_{name.upper()}" for name in Settings.model_fields} | {"FLOWLESS_CONFIG"}
    unknown = sorted(
        name
        for name in environment
        if name.startswith("FLOWLESS_") and name.upper() not in known and not _INJECTED.fullmatch(name)
    )
    if unknown:
        return Finding("settings", "warn", f"no setting reads {', '.join(unknown)}", "correct or remove the variable")
    return Finding("settings", "ok", f"from {config}" if config else "from the environment")


def _transport(settings: Settings) -> Iterator[Finding]:
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        for path in (settings.tls_cert_file, settings.tls_key_file):
            if not os.access(path, os.R_OK):
                yield Finding("transport", "bad", f"cannot read {path}", "make it readable for this user")
                return
        try:
            tls_files(settings).read()
        except TlsFilesError as error:
            yield Finding("transport", "bad", str(error), "mend the files; what is in use stays")
            return
        if stat.S_IMODE(settings.tls_key_file.stat().st_mode) & 0o077:
            yield Finding("transport", "warn", "others can read the TLS key", f"chmod 600 {settings.tls_key_file}")
            return
        yield Finding("transport", "ok", f"TLS on {settings.listen}")
    elif settings.is_local:
        yield Finding("transport", "ok", f"plaintext on {settings.listen}, reachable from this machine only")
    else:
        yield Finding("transport", "warn", f"plaintext on {settings.listen}", "set tls_cert_file and tls_key_file")


def _secret_files(settings: Settings) -> Iterator[Finding]:
    if settings.signing_key_file is None:
        yield Finding(
            "trust tokens",
            "warn",
            "no signing_key_file: magic links, resets and invitations are refused",
            "openssl rand -base64 32 > FILE; chmod 600 FILE; set signing_key_file; flowless keys rotate",
        )
    files = (
        settings.signing_key_file,
        settings.pepper_file,
        settings.redis_key_file,
        settings.redis_password_file,
        settings.database_password_file,
        settings.smtp_password_file,
    )
    for path in files:
        if path is not None and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Finding("files", "warn", f"others can read {path}", f"chmod 600 {path}")


def _mail(settings: Settings) -> Finding:
    if settings.smtp_url is None:
        return Finding("mail", "ok", "none is sent: bridges send trust tokens themselves")
    if settings.insecure_smtp and settings.smtp_url.startswith("smtp://"):
        return Finding("mail", "warn", "goes out in plaintext: links are readable on the way", "use smtps://")
    if not settings.link_urls:
        return Finding("mail", "warn", "link_urls is empty: no trust token can be sent", "set link_urls")
    purposes = ", ".join(sorted(settings.link_urls))
    return Finding("mail", "ok", f"sent for {purposes}; `flowless mail test ADDRESS` tries it")


def _files(database: Path) -> Iterator[Finding]:
    directory = database.parent.resolve()
    if not directory.is_dir():
        yield Finding("files", "bad", f"no directory {directory}", f"mkdir -m 700 {directory}")
        return
    if not os.access(directory, os.W_OK | os.X_OK):
        yield Finding(
            "files", "bad", f"cannot write in {directory}", "SQLite keeps its log beside the database: chown"
        )
        return
    if database.exists():
        mode = stat.S_IMODE(database.stat().st_mode)
        if mode & 0o007:
            yield Finding("files", "warn", f"everyone can open {database} ({mode:04o})", f"chmod 600 {database}")
            return
    yield Finding("files", "ok", str(directory))


def _server(settings: Settings) -> Iterator[Finding]:
    url = urlsplit(settings.database_url)
    local = (url.hostname or "localhost") in ("localhost", "127.0.0.1", "::1")
    if not local and parse_qs(url.query).get("sslmode", [""])[0] not in ("verify-ca", "verify-full"):
        yield Finding(
            "transport",
            "warn",
            "the connection to PostgreSQL does not check who answers",
            "add sslmode=verify-full and sslrootcert=FILE to database_url",
        )
    if url.password and settings.database_password_file is None:
        yield Finding(
            "settings", "warn", "the database's password stands in its URL", "move it to database_password_file"
        )


def _mend_storage(settings: Settings) -> str:
    if settings.database_file:
        return "is the disk full, or another process writing?"
    return "does PostgreSQL run at this address, and does it accept this user, password and database?"


async def _database(settings: Settings) -> list[Finding]:
    if settings.database_file and not settings.database_file.exists():
        return [Finding("database", "bad", f"no file {settings.database_file}", "flowless migrate")]
    database = open_database(settings)
    try:
        await require_served(database)
        head = await SqlRevocationLog(database=database).head()
        replicas = await SqlReplicaRegistry(database=database).list()
        keys = await SqlSigningKeyStore(database=database).list()
    except SchemaError as error:
        return [Finding("database", "bad", str(error), "flowless migrate")]
    except TrustError as error:
        return [Finding("database", "bad", error.message, _mend_storage(settings))]
    finally:
        await database.close()
    return [
        Finding("database", "ok", f"schema is current, log at revision {head.revision}"),
        *_signing_keys(settings, keys),
        *(finding for record in replicas for finding in _replica(record)),
    ]


def _signing_keys(settings: Settings, keys: list[SigningKey]) -> Iterator[Finding]:
    if settings.signing_key_file is None:
        return
    if not any(key.state is KeyState.ACTIVE for key in keys):
        yield Finding("trust tokens", "warn", "there is no signing key yet", "flowless keys rotate")
        return
    tokens = PasetoTokens(wrapping_keys=settings.signing_wrapping_keys(), random=os.urandom)
    for key in keys:
        if key.wrapped and not tokens.opens(key):
            yield Finding(
                "trust tokens", "bad", f"signing_key_file does not open {key.key_id}", "add the key that wrapped it"
            )
            return
    yield Finding("trust tokens", "ok", f"{len(keys)} signing keys")


def _replica(record: ReplicaRecord) -> Iterator[Finding]:
    """Show a replica and who watches it, as it last reported, which is some seconds ago."""
    report = record.report
    if record.doubted:
        gone = f"{report.name} has stopped or hangs; a revoke that waits for all sidecars waits for its leases"
        yield Finding(
            "replica", "warn", gone, "nothing if it was stopped: it is forgotten soon; else look at its log"
        )
        return
    more = f", the {len(report.watchers)} furthest behind follow" if report.watching > len(report.watchers) else ""
    yield Finding("replica", "ok", f"{report.name} at revision {report.revision}, {report.watching} watchers{more}")
    for watcher in report.watchers:
        yield _watcher(watcher, report.revision)


def _watcher(watcher: WatcherReport, end: int) -> Finding:
    lag = max(0, end - watcher.applied_revision)
    pinged = (
        "never pinged" if watcher.silent_for is None else f"pinged {watcher.silent_for.total_seconds():.1f} s before"
    )
    state = "" if watcher.connected else ", has left"
    text = f"{watcher.instance or 'unnamed'} at revision {watcher.applied_revision}, {lag} behind, {pinged}{state}"
    # It confirms with its pings, so a little behind is usual; it is silent when its lease has run out.
    silent = watcher.silent_for is None or watcher.silent_for >= watcher.max_staleness
    if watcher.connected and silent and watcher.max_staleness:
        return Finding("watcher", "warn", text, "it asks about every request: look at its log and at the network")
    return Finding("watcher", "ok", text)


def _clock() -> Iterator[Finding]:
    clock = SystemClock()
    if clock.source == "CLOCK_BOOTTIME":
        yield Finding("clock", "ok", "durations count suspended time (CLOCK_BOOTTIME)")
    else:
        yield Finding(
            "clock", "warn", f"durations by {clock.source} do not count suspended time", "run on Linux in production"
        )
