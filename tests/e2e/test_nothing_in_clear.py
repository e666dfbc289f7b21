"""No secret is in anything that a full run writes: both programs, both databases, with everything logged and traced.

The run is in `tests/support/secrets_run.py`. What is searched: logs, metrics, traces, the database and its
write-ahead log, PostgreSQL's log of every statement with its parameters, what Redis holds and was asked, command
lines and environments, what operators' commands print. Mail is the one place where a secret (a link's token) belongs.
"""

import base64
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from flowless.domain.bridges import Scope
from tests.support.collector import Collector, running_collector
from tests.support.flowless import Client
from tests.support.secrets_run import (
    AS_LOGIN_NAME,
    REQUEST_ID,
    RULES,
    Pair,
    Secrets,
    metrics_of,
    run_through,
    told_by_commands,
    told_by_processes,
    wait_until_sent,
)
from tests.support.smtp import Mailbox, mail_server
from tests.support.spellings import spellings
from tests.support.system import App
from tools.postgres_server import PostgresServer
from tools.processes import TESTING, FlowlessProcess, SidecarProcess, free_port, temporary_directory
from tools.redis_server import RedisServer

# Everything at once, in one fixture, is more than other tests wait for on a busy machine.
pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]
_LOUD = {"LOG_LEVEL": "debug", "LOG_REQUESTS": "all", "TRACES_SAMPLE_RATIO": "1", "METRICS_LISTEN": "127.0.0.1:0"}
_LINKS = '{"magic_link": "https://app.example/in?token={token}"}'


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was secret, and what was written where."""

    database: str
    secrets: Mapping[str, bytes]
    written: Mapping[str, bytes]
    mails: int


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    with temporary_directory() as directory, ExitStack() as stack:
        yield _run(request.param, directory, stack)


def _run(database: str, directory: Path, stack: ExitStack) -> Run:
    secrets = Secrets()
    redis = stack.enter_context(
        RedisServer(
            *("--rdbcompression", "no", "--slowlog-log-slower-than", "0", "--slowlog-max-len", "100000"),
        )
    )
    postgres = stack.enter_context(PostgresServer()) if database == "postgres" else None
    mailbox = stack.enter_context(mail_server())
    collector = stack.enter_context(running_collector())
    pair = _start(stack, directory, secrets, redis, postgres, mailbox, collector)
    run_through(pair, secrets)
    written: dict[str, bytes] = {}
    written |= told_by_processes(pair)
    written |= told_by_commands(pair)
    written |= {f"metrics of {each.name}": metrics_of(each.log) for each in (pair.flowless, pair.sidecar)}
    # The write-ahead log is gone once the last connection is.
    written |= {path.name: path.read_bytes() for path in directory.glob("flowless.db*")}
    assert pair.sidecar.stop() == 0
    assert pair.flowless.stop() == 0
    wait_until_sent(lambda: {span.program for span in collector.spans} == {"flowless", "bridge-sidecar"})
    written["traces"] = b"\n".join(collector.received)
    written |= {path.name: path.read_bytes() for path in directory.glob("*.log")}
    written |= _of_redis(redis)
    if postgres is not None:
        written |= _of_postgres(postgres)
    return Run(database=database, secrets=secrets.known, written=written, mails=len(mailbox.taken))


def _key(directory: Path, name: str, secrets: Secrets, prefix: str = "") -> str:
    """Write a key file; remember the key."""
    key = secrets.keep(name, os.urandom(32))
    file = directory / name
    file.touch(mode=0o600)
    file.write_text(prefix + base64.b64encode(key).decode() + "\n")
    return str(file)


def _start(
    stack: ExitStack,
    directory: Path,
    secrets: Secrets,
    redis: RedisServer,
    postgres: PostgresServer | None,
    mailbox: Mailbox,
    collector: Collector,
) -> Pair:
    key_files = {
        "FLOWLESS_REDIS_KEY_FILE": _key(directory, "redis-key", secrets),
        "FLOWLESS_PEPPER_FILE": _key(directory, "pepper", secrets, "one:"),
    }
    _key(directory, "signing-key", secrets)
    url = f"sqlite:///{directory / 'flowless.db'}"
    if postgres is not None:
        url = _without_password(postgres, directory, secrets, key_files)
    flowless = FlowlessProcess(
        directory=directory,
        database_url=url,
        environment={
            **TESTING,
            **key_files,
            **{f"FLOWLESS_{name}": value for name, value in _LOUD.items()},
            "FLOWLESS_SLOW_QUERY_SECONDS": "0.000001",
            "FLOWLESS_TRACES_ENDPOINT": collector.endpoint,
            "FLOWLESS_REDIS_URL": redis.url,
            "FLOWLESS_REDIS_TIMEOUT_SECONDS": "0.1",
            "FLOWLESS_REFLECTION": "true",
            "FLOWLESS_PUBFLOW": "true",
            "FLOWLESS_SMTP_URL": f"smtp://127.0.0.1:{mailbox.port}",
            "FLOWLESS_MAIL_FROM": "no-reply@example.org",
            "FLOWLESS_LINK_URLS": _LINKS,
        },
    )
    stack.enter_context(flowless)
    flowless.create_signing_keys()
    admin = secrets.keep("bridge secret", flowless.create_bridge("everything", [_cli(s) for s in Scope]).secret)
    own = secrets.keep("bridge secret", flowless.create_bridge("sidecar").secret)
    rules = directory / "rules.toml"
    rules.write_text(RULES)
    port = free_port()
    sidecar = SidecarProcess(
        directory=directory,
        upstream=flowless.address,
        secret=own,
        environment={
            **{f"BRIDGE_SIDECAR_{name}": value for name, value in _LOUD.items()},
            "BRIDGE_SIDECAR_TRACES_ENDPOINT": collector.endpoint,
            "BRIDGE_SIDECAR_CONFIG": str(rules),
            "BRIDGE_SIDECAR_EXT_AUTHZ": "true",
            "BRIDGE_SIDECAR_FORWARD_AUTH_LISTEN": f"127.0.0.1:{port}",
            "BRIDGE_SIDECAR_ACTIVITY_INTERVAL_SECONDS": "0.2",
        },
    )
    stack.enter_context(sidecar)
    to_flowless = stack.enter_context(grpc.insecure_channel(flowless.address))
    channel = stack.enter_context(grpc.insecure_channel(sidecar.address))
    app = App(channel)
    app.wait_for_lease()
    return Pair(
        flowless=flowless,
        sidecar=sidecar,
        admin=Client(to_flowless, admin),
        channel=channel,
        app=app,
        forward_auth_port=port,
        mailbox=mailbox,
    )


def _cli(scope: Scope) -> str:
    return scope.name.lower()


def _without_password(
    postgres: PostgresServer, directory: Path, secrets: Secrets, environment: dict[str, str]
) -> str:
    """Make a database whose server logs each statement and its parameters; its password goes by a file."""
    postgres.execute("ALTER SYSTEM SET log_statement = 'all'")
    postgres.execute("SELECT pg_reload_conf()")
    user, _, rest = postgres.url().removeprefix("postgresql://").partition(":")
    password, _, address = rest.partition("@")
    file = directory / "database-password"
    file.touch(mode=0o600)
    file.write_text(secrets.keep("database password", password))
    environment["FLOWLESS_DATABASE_PASSWORD_FILE"] = str(file)
    return f"postgresql://{user}@{address}"


def _of_redis(redis: RedisServer) -> dict[str, bytes]:
    """What it holds, as it is and as it would be saved; and each command that it was sent."""
    with redis.client() as client:
        held = b"\n".join(part for key in client.scan_iter() for part in (key, client.dump(key)))
        asked = b"\n".join(entry["command"] for entry in client.slowlog_get(100_000))
        client.save()
        directory = client.config_get("dir")["dir"]
    return {
        "redis": held,
        "commands of redis": asked,
        "dump.rdb": (Path(directory) / "dump.rdb").read_bytes(),
        "redis.log": redis.log.read_bytes(),
    }


def _of_postgres(postgres: PostgresServer) -> dict[str, bytes]:
    tables: dict[str, bytes] = {}
    with postgres.connect() as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (name,) in names:
            with connection.cursor().copy(f"COPY {name} TO STDOUT") as copy:
                tables[f"table {name}"] = b"".join(bytes(block) for block in copy)
        connection.execute("CHECKPOINT")
        (data,) = connection.execute("SHOW data_directory").fetchone() or ("",)
    journal = b"".join(path.read_bytes() for path in sorted((Path(data) / "pg_wal").iterdir()) if path.is_file())
    return tables | {"PostgreSQL's log": postgres.log.read_bytes(), "pg_wal": journal.replace(bytes(64), b"")}


def _found(secrets: Mapping[str, bytes], written: Mapping[str, bytes]) -> list[str]:
    """Which secret is where, and how; never the secret itself."""
    looked_for = [(name, how, text) for name, secret in secrets.items() for how, text in spellings(secret).items()]
    return sorted(
        {
            f"{name} as {how} in {place}"
            for place, data in written.items()
            for name, how, text in looked_for
            if text in data and not _may_be(name, place)
        }
    )


def _may_be(name: str, place: str) -> bool:
    """Whoever lets PostgreSQL log the parameters of all statements sees what is looked up, whatever was typed."""
    return place == "PostgreSQL's log" and name.startswith(AS_LOGIN_NAME)


def test_no_secret_is_in_anything_that_was_written(run: Run) -> None:
    found = _found(run.secrets, run.written)
    assert not found, "\n".join(found)


def test_the_run_used_every_kind_of_secret(run: Run) -> None:
    kinds = {name.rpartition(" ")[0] for name in run.secrets}
    assert kinds >= {
        "session id", "trust token", "bridge secret", "right password", "wrong password", "new password",
        "imported password", AS_LOGIN_NAME, "redis-key", "pepper", "signing-key",
    }  # fmt: skip
    assert ("database password" in kinds) == (run.database == "postgres")
    assert sum(name.startswith("session id") for name in run.secrets) >= 10
    assert run.mails == 1


def test_every_place_was_written_to(run: Run) -> None:
    """What is public of the run is there: a search of empty files would find nothing either."""
    written = run.written
    handle = b"sh_"
    for place, expected in {
        "flowless.log": [REQUEST_ID.encode(), b'"slow statement"', b'"request"', b"INSERT audit_events"],
        "sidecar.log": [REQUEST_ID.encode(), b'"request"', b"ValidatorService/Validate"],
        "traces": [REQUEST_ID.encode(), b"redis HGET", b"forward-auth", b"INSERT sessions", b"ReportMismatch"],
        "metrics of flowless": [b"flowless_"],
        "metrics of bridge-sidecar": [b"bridge_sidecar_"],
        "audit export": [REQUEST_ID.encode()],
        "redis": [b"tl:"],
        "commands of redis": [b"tl:", b"EVAL"],
        "dump.rdb": [b"tl:"],
        "sidecar status": [b"hits"],
    }.items():
        for text in expected:
            assert text in written[place], f"{text!r} is not in {place}"
    if run.database == "sqlite":
        assert handle in written["flowless.db"] + written["flowless.db-wal"]
        assert len(written["flowless.db-wal"]) > 10_000
    else:
        assert handle in written["table sessions"]
        assert handle in written["pg_wal"]
        assert f"/*request_id='{REQUEST_ID}'*/".encode() in written["PostgreSQL's log"]
        assert b"INSERT INTO sessions" in written["PostgreSQL's log"]
        assert b"parameters: $1 = " in written["PostgreSQL's log"].lower()
    assert sum(place.endswith("cmdline") for place in written) >= 3


@pytest.mark.parametrize("how", sorted(spellings(b"sess_0123456789ABCDEFGHIJ+/=?")))
def test_a_secret_in_any_spelling_would_be_found(how: str) -> None:
    secret = b"sess_0123456789ABCDEFGHIJ+/=?"
    text = spellings(secret)[how]
    assert any(
        line.startswith("it as ") for line in _found({"it": secret}, {"somewhere": b"before" + text + b"after"})
    )


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_secret_inside_a_longer_text_in_base64_would_be_found(before: str, encode: Any) -> None:
    secret = b"the right passphrase of Ada"
    assert _found({"it": secret}, {"somewhere": encode(before.encode() + secret + b" and more")})
