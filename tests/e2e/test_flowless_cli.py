"""The command `flowless`, for people and for programs: what it prints, how it exits, what it never shows."""

import asyncio
import base64
import json
import logging
import os
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer
from typer.testing import CliRunner, Result

from flowless.adapters.sql.migrate import newest_version
from flowless.cli import app
from flowless.domain.sessions import Session
from tests.support.certificates import Authority
from tests.support.flowless import Client, listed_services
from tests.support.report_log import log_into_report
from tests.support.repository import ROOT
from tests.support.stores import new_sqlite_file, sqlite_stores, sqlite_url
from tools.processes import TESTING, ManagedProcess, write_signing_key

PASSWORD = "correct horse battery staple"
SECRET = re.compile(r"brdg_[0-9A-Za-z]{16}_[0-9A-Za-z]{49}")
DONE, REFUSED, USAGE, STORAGE, SETTINGS = range(5)


class Cli:
    """Runs commands over one database, most of them in this process: starting one takes a second."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.signing_key_file = file.parent / "signing-key"
        write_signing_key(self.signing_key_file)
        self.environment = {
            **TESTING,
            "FLOWLESS_DATABASE_URL": sqlite_url(file),
            "FLOWLESS_BUSY_TIMEOUT_SECONDS": "30",
            "FLOWLESS_LISTEN": "127.0.0.1:0",
            "FLOWLESS_SIGNING_KEY_FILE": str(self.signing_key_file),
        }

    def run(self, *arguments: str, code: int = DONE, stdin: str | bytes = "", **variables: str) -> Result:
        """Run a command that has to end with this code, and without a traceback."""
        environment = self.environment | {f"FLOWLESS_{name.upper()}": value for name, value in variables.items()}
        result = CliRunner().invoke(app, arguments, input=stdin, env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    def json(self, *arguments: str, **options: Any) -> Any:
        """Run a command with --json; return what it printed."""
        return json.loads(self.run(*arguments, "--json", **options).stdout)

    def refused(self, *arguments: str, code: int = REFUSED, **options: Any) -> str:
        """Run a command that fails; return what it said, which goes to standard error alone."""
        result = self.run(*arguments, code=code, **options)
        assert result.stdout == ""
        return result.stderr

    def process(self, *arguments: str | bytes, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a command in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "flowless", *arguments],
            cwd=ROOT, env=os.environ | self.environment, input=stdin, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert b"Traceback" not in done.stderr, done.stderr
        return done

    def create_user(self, email: str = "ada@example.org", *options: str) -> Any:
        return self.json("users", "create", email, "--password-stdin", *options, stdin=f"{PASSWORD}\n")

    def add_sessions(self, email: str, count: int) -> list[Session]:
        async def work() -> list[Session]:
            async with sqlite_stores(self.file) as stores:
                found = await stores.users.credentials_by_email(email)
                assert found is not None
                now = found.user.created_at
                return [
                    await stores.add_session(
                        found.user, created_at=now, last_seen_at=now, expires_at=now.replace(year=now.year + 1)
                    )
                    for _ in range(count)
                ]

        return asyncio.run(work())

    @contextmanager
    def locked_database(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.file, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Commands set up logging for their process, which here is ours."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    log_into_report()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(asyncio.run(new_sqlite_file(tmp_path)))


@pytest.fixture
def empty(tmp_path: Path) -> Cli:
    """Without a database."""
    return Cli(tmp_path / "flowless.db")


def _commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
    else:
        for name, found in inner.items():
            yield from _commands(found, *path, name)


COMMANDS = dict(_commands(typer.main.get_command(app)))
"""Path -> command, of every command that there is."""


# --- help -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_has_an_example_and_says_what_its_options_mean(path: tuple[str, ...]) -> None:
    text = CliRunner().invoke(app, [*path, "--help"]).output
    assert re.search(rf"Examples:\n(.*\n)*?.*flowless {' '.join(path)}", text)
    shared = {"config", "as_json", "scope", "role", "except_handle", "overlap", "data_dir", "listen"}
    assert all(option.help for option in COMMANDS[path].params if option.name in shared)


def test_the_help_says_what_the_exit_codes_mean() -> None:
    text = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    for phrase in ("0 done", "1 refused", "2 wrong usage", "3 the database", "4 settings"):
        assert phrase in text


@pytest.mark.parametrize("group", [[], ["bridges"], ["users"], ["sessions"]])
def test_a_group_without_a_command_shows_its_help(group: list[str]) -> None:
    assert "Usage:" in CliRunner().invoke(app, group).output


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["bridges", "create"],
        ["bridges", "create", "shop", "--scope", "everything"],
        ["bridges", "rotate", "shop", "--overlap", "soon"],
        ["bridges", "rotate", "shop", "--overlap", "99999999d"],
        ["bridges", "rotate", "shop", "--overlap", ""],
        ["users", "list", "--limit", "0"],
        ["users", "create", "a@example.org", "--password", "x"],
        ["serve", "--port", "1"],
    ],
)
def test_wrong_usage_is_told_apart(cli: Cli, arguments: list[str]) -> None:
    assert "Usage:" in cli.refused(*arguments, code=USAGE)


# --- bridges ----------------------------------------------------------------------------------------------------


def test_a_bridges_secret_is_printed_once_and_never_listed(cli: Cli) -> None:
    created = cli.run("bridges", "create", "shop", "--scope", "validate", "--scope", "admin")
    (secret,) = SECRET.findall(created.stdout)
    assert "shown this once" in created.stderr
    assert secret not in created.stderr
    rotated = cli.run("bridges", "rotate", "shop").stdout
    (second,) = SECRET.findall(rotated)
    assert second != secret
    for listed in (cli.run("bridges", "list").output, cli.run("bridges", "list", "--json").output):
        assert "shop" in listed
        assert not SECRET.search(listed)
    assert secret.encode() not in cli.file.read_bytes()


def test_bridges_for_programs(cli: Cli) -> None:
    assert cli.json("bridges", "list") == []
    created = cli.json("bridges", "create", "shop", "--scope", "validate", "--scope", "sessions")
    assert SECRET.fullmatch(created["secret"])
    assert set(created) == {"id", "name", "secret"}
    (listed,) = cli.json("bridges", "list")
    assert (listed["id"], listed["name"]) == (created["id"], "shop")
    assert (listed["scopes"], listed["revoked"]) == (["sessions", "validate"], None)
    rotated = cli.json("bridges", "rotate", created["id"], "--overlap", "1h")
    assert rotated["secret"] != created["secret"]
    assert cli.json("bridges", "revoke", "shop")["revision"] == 2
    assert cli.json("bridges", "revoke", "shop")["revision"] == 2
    (listed,) = cli.json("bridges", "list")
    assert listed["revoked"]


def test_secrets_that_are_dead_are_not_counted(cli: Cli) -> None:
    cli.run("bridges", "create", "shop")
    for overlap, live in (("1h30m", 2), ("1d", 3), ("0s", 1)):
        cli.run("bridges", "rotate", "shop", "--overlap", overlap)
        (listed,) = cli.json("bridges", "list")
        assert listed["secrets"] == live
        assert (listed["old_secrets_expire"] is None) == (live == 1)
    cli.run("bridges", "revoke", "shop")
    assert cli.json("bridges", "list")[0]["secrets"] == 0


def test_a_bridge_is_bound_to_a_client_and_freed(cli: Cli) -> None:
    spiffe_id = "spiffe://example.org/ns/shop/sa/web"
    cli.run("bridges", "create", "shop", "--client-id", spiffe_id)
    assert cli.json("bridges", "list")[0]["client"] == spiffe_id
    for client_id in ("shop.internal", ""):
        assert cli.json("bridges", "bind", "shop", client_id)["client"] == client_id
        assert cli.json("bridges", "list")[0]["client"] == client_id


def test_a_bridge_may_validate_and_nothing_else_unless_told(cli: Cli) -> None:
    cli.run("bridges", "create", "shop")
    assert cli.json("bridges", "list")[0]["scopes"] == ["validate"]


def test_bridges_for_people(cli: Cli) -> None:
    assert "flowless bridges create" in cli.run("bridges", "list").stdout
    cli.run("bridges", "create", "shop")
    header, line = cli.run("bridges", "list").stdout.splitlines()
    assert header.split() == (
        [
            "ID",
            "NAME",
            "SCOPES",
            "CLIENT",
            "SECRETS",
            "CREATED",
            "LAST",
            "USED",
            "OLD",
            "SECRETS",
            "EXPIRE",
            "OLD",
            "SECRETS",
            "USED",
            "REVOKED",
        ]
    )
    assert line.split()[1:3] == ["shop", "validate"]
    assert line.split()[-1] == "-"


def test_bridges_that_are_refused(cli: Cli) -> None:
    cli.run("bridges", "create", "shop")
    assert "another bridge has this name" in cli.refused("bridges", "create", "shop")
    assert "name:" in cli.refused("bridges", "create", "a b")
    for command in (["rotate", "nothing"], ["revoke", "nothing"], ["bind", "nothing", ""]):
        assert "no such bridge" in cli.refused("bridges", *command)
    for client_id in ("spiffe://example.org", "*.example.org", "https://example.org/x", "Shop.internal"):
        assert "client_id:" in cli.refused("bridges", "create", "other", "--client-id", client_id)
        assert "client_id:" in cli.refused("bridges", "bind", "shop", client_id)
    cli.run("bridges", "revoke", "shop")
    assert "no such live bridge" in cli.refused("bridges", "bind", "shop", "shop.internal")
    assert "no such live bridge" in cli.refused("bridges", "rotate", "shop")
    assert "overlap" in cli.refused("bridges", "rotate", "shop", "--overlap", "31d")


# --- users ------------------------------------------------------------------------------------------------------


def test_a_user_is_created_with_a_password_from_standard_input(cli: Cli) -> None:
    user = cli.create_user("Ada@Example.org", "--user-name", "ada", "--role", "b", "--role", "a")
    assert (user["email"], user["user_name"], user["roles"]) == ("Ada@Example.org", "ada", ["a", "b"])
    assert user["status"] == "active"
    for name in (user["id"], "ada@example.org", "ADA"):
        shown = cli.json("users", "show", name)
        assert shown["id"] == user["id"]
        assert PASSWORD not in str(shown)
    text = cli.run("users", "show", "ada").stdout
    assert re.search(r"(?m)^roles +a, b$", text)
    assert re.search(r"(?m)^attributes +-$", text)


def test_a_user_is_created_with_a_password_that_is_asked_for_twice_and_not_shown(cli: Cli) -> None:
    created = cli.run("users", "create", "ada@example.org", stdin=f"{PASSWORD}\n{PASSWORD}\n")
    assert "usr_" in created.stdout
    assert PASSWORD not in created.output
    cli.run("users", "create", "eve@example.org", stdin="one password\nanother password\n", code=REFUSED)
    assert [user["email"] for user in cli.json("users", "list")] == ["ada@example.org"]


@pytest.mark.parametrize(
    ("email", "stdin", "said"),
    [
        ("ada@example.org", PASSWORD, "another user has this e-mail address"),
        ("nonsense", PASSWORD, "email:"),
        ("eve@example.org", "short", "password: 12 to 256 characters"),
        ("eve@example.org", "", "--no-password"),
        ("eve@example.org", "x" * 100_000, "password: 12 to 256 characters"),
        ("eve@example.org", b"\xff\xfe not UTF-8 at all", "not UTF-8"),
    ],
)
def test_users_that_are_refused(cli: Cli, email: str, stdin: str | bytes, said: str) -> None:
    cli.create_user()
    assert said in cli.refused("users", "create", email, "--password-stdin", stdin=stdin)


def test_users_are_listed(cli: Cli) -> None:
    assert "flowless users create" in cli.run("users", "list").stdout
    assert cli.json("users", "list") == []
    ids = sorted(cli.create_user(f"user{n}@example.org")["id"] for n in range(3))
    assert [user["id"] for user in cli.json("users", "list")] == ids
    limited = cli.run("users", "list", "--limit", "2")
    assert limited.stdout.count("usr_") == 2
    assert "there are more" in limited.stderr


def test_a_users_roles_are_replaced(cli: Cli) -> None:
    cli.create_user("ada@example.org", "--role", "admin")
    changed = cli.json("users", "set-roles", "ada@example.org", "--role", "x", "--role", "y")
    assert (changed["roles"], changed["revision"]) == (["x", "y"], 1)
    assert cli.json("users", "set-roles", "ada@example.org")["roles"] == []


def test_a_user_is_disabled_enabled_and_deleted(cli: Cli) -> None:
    user = cli.create_user()
    assert cli.json("users", "disable", "ada@example.org") == {
        "disabled": user["id"], "email": "ada@example.org", "revision": 1,
    }  # fmt: skip
    assert cli.json("users", "show", user["id"])["status"] == "disabled"
    assert cli.json("users", "enable", user["id"])["revision"] == 2
    cli.run("users", "delete", user["id"], code=REFUSED, stdin="n\n")
    assert cli.json("users", "show", user["id"])["status"] == "active"
    assert "deleted" in cli.run("users", "delete", user["id"], stdin="y\n").stdout
    assert "no such user" in cli.refused("users", "show", user["id"])
    assert "no such user" in cli.refused("users", "delete", user["id"], "--yes")


@pytest.mark.parametrize("command", ["show", "disable", "enable", "set-roles"])
def test_a_user_who_does_not_exist_is_not_found(cli: Cli, command: str) -> None:
    for name in ("nobody", "nobody@example.org", "usr_0000000000000000000000"):
        assert "no such user" in cli.refused("users", command, name)


# --- sessions ---------------------------------------------------------------------------------------------------


def test_sessions_are_listed_and_revoked_by_handle(cli: Cli) -> None:
    cli.create_user()
    assert "no live sessions" in cli.run("sessions", "list", "ada@example.org").stdout
    one, two, three = (session.handle for session in cli.add_sessions("ada@example.org", 3))
    listed = cli.json("sessions", "list", "ada@example.org")
    assert {session["handle"] for session in listed} == {one, two, three}
    assert {session["client_ip"] for session in listed} == {"203.0.113.7"}
    assert one in cli.run("sessions", "list", "ada@example.org").stdout
    for _ in range(2):
        assert cli.json("sessions", "revoke", one) == {"revoked": one, "revision": 1}
    assert cli.json("sessions", "revoke-user", "ada@example.org", "--except", two)["revision"] == 2
    assert [session["handle"] for session in cli.json("sessions", "list", "ada@example.org")] == [two]
    assert len(cli.json("sessions", "list", "ada@example.org", "--limit", "1")) == 1


def test_sessions_that_are_refused(cli: Cli) -> None:
    assert "handle" in cli.refused("sessions", "revoke", "nonsense")
    assert "no such user" in cli.refused("sessions", "list", "nobody")
    assert "no such user" in cli.refused("sessions", "revoke-user", "nobody")
    cli.create_user()
    assert "except_handle" in cli.refused("sessions", "revoke-user", "ada@example.org", "--except", "x")


# --- migrate, storage, settings ---------------------------------------------------------------------------------


def test_migrating_says_what_it_did(empty: Cli) -> None:
    version = newest_version()
    assert empty.run("migrate").stdout == f"schema migrated from nothing to {version}\n"
    assert empty.run("migrate").stdout == f"schema {version} is there already\n"
    assert empty.json("migrate") == {"before": version, "after": version}


EVERY_KIND = [
    ["bridges", "list"],
    ["bridges", "create", "shop"],
    ["users", "show", "ada"],
    ["users", "create", "ada@example.org", "--password-stdin"],
    ["sessions", "revoke", "sh_0000000000000000000000"],
]


@pytest.mark.parametrize("arguments", EVERY_KIND, ids=" ".join)
def test_without_a_schema_every_command_says_which_one_to_run(empty: Cli, arguments: list[str]) -> None:
    said = empty.refused(*arguments, code=SETTINGS, stdin=f"{PASSWORD}\n")
    assert "run `flowless migrate`" in said


def test_a_schema_of_a_newer_flowless_is_not_touched(cli: Cli) -> None:
    with closing(sqlite3.connect(cli.file)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    for arguments in (["migrate"], ["serve"], ["bridges", "list"]):
        assert "newer than this Flowless" in cli.refused(*arguments, code=SETTINGS)


@pytest.mark.parametrize("arguments", [*EVERY_KIND, ["migrate"], ["serve"]], ids=" ".join)
def test_storage_that_cannot_be_used_is_told_apart(empty: Cli, arguments: list[str]) -> None:
    url = f"sqlite:///{empty.file.parent / 'missing' / 'flowless.db'}"
    said = empty.refused(*arguments, code=STORAGE, stdin=f"{PASSWORD}\n", database_url=url)
    assert "the database cannot be used: the file cannot be opened" in said
    assert "retry" not in said


def test_a_locked_database_is_told_apart(cli: Cli) -> None:
    with cli.locked_database():
        assert "busy" in cli.refused("bridges", "create", "shop", code=STORAGE, busy_timeout_seconds="0.1")
        assert cli.json("bridges", "list") == []


@pytest.mark.parametrize("arguments", [*EVERY_KIND, ["migrate"], ["serve"]], ids=" ".join)
def test_wrong_settings_are_all_named(empty: Cli, arguments: list[str]) -> None:
    said = empty.refused(*arguments, code=SETTINGS, stdin=f"{PASSWORD}\n", poll_seconds="7", log_level="loud")
    assert "poll_seconds" in said
    assert "log_level" in said
    assert "loud" not in said


def test_settings_come_from_a_file_when_told(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "flowless.toml"
    file.write_text(f'database_url = "{sqlite_url(cli.file)}"\ntesting = true\n')
    del cli.environment["FLOWLESS_DATABASE_URL"]
    assert cli.json("bridges", "list", "--config", str(file)) == []
    assert cli.json("bridges", "list", config=str(file)) == []
    assert "no such file" in cli.refused("bridges", "list", "--config", "missing.toml", code=SETTINGS)


# --- doctor -----------------------------------------------------------------------------------------------------


def _findings(cli: Cli, *, code: int = DONE, **variables: str) -> dict[str, dict[str, str]]:
    return {row["check"]: row for row in cli.json("doctor", code=code, **variables)}


def test_doctor_finds_nothing_to_mend_where_all_is_well(cli: Cli) -> None:
    cli.file.chmod(0o600)
    cli.run("keys", "rotate")
    findings = _findings(cli)
    assert set(findings) == {"settings", "transport", "files", "database", "trust tokens", "mail", "clock"}
    assert {row["state"] for row in findings.values()} == {"ok"}
    assert cli.run("doctor").stdout.count(" ok ") == 7


def test_doctor_says_how_to_come_to_signing_keys(cli: Cli) -> None:
    cli.file.chmod(0o600)
    finding = _findings(cli)["trust tokens"]
    assert (finding["state"], finding["mend"]) == ("warn", "flowless keys rotate")
    cli.run("keys", "rotate")
    cli.signing_key_file.write_text(base64.b64encode(b"another key, of thirty-two bytes").decode())
    finding = _findings(cli, code=SETTINGS)["trust tokens"]
    assert finding["state"] == "bad"
    cli.environment.pop("FLOWLESS_SIGNING_KEY_FILE")
    assert "signing_key_file" in _findings(cli)["trust tokens"]["finding"]


def test_signing_keys_are_rotated_listed_wrapped_anew_and_destroyed(cli: Cli) -> None:
    assert "flowless keys rotate" in cli.run("keys", "list").stdout
    first = cli.json("keys", "rotate")["active"]
    second = cli.json("keys", "rotate", "--overlap-days", "7")["active"]
    assert [(key["key_id"] in (first, second), key["state"]) for key in cli.json("keys", "list")].count(
        (True, "retired")
    ) == 1
    assert "is active" in cli.refused("keys", "destroy", second, "--yes")
    cli.run("keys", "destroy", first, "--yes")
    cli.run("keys", "destroy", first, "--yes")
    old = cli.signing_key_file.read_text()
    cli.signing_key_file.write_text(base64.b64encode(os.urandom(32)).decode() + "\n" + old)
    assert cli.json("keys", "rewrap") == {"rewrapped": 2}
    assert cli.run("audit", "tail").stdout.count("signing_key.rewrap") == 2
    cli.signing_key_file.write_text(cli.signing_key_file.read_text().splitlines()[0])
    assert _findings(cli)["trust tokens"]["state"] == "ok"
    everything = cli.run("keys", "list").output
    assert "k4.secret" not in everything


def test_doctor_says_how_to_mend_a_missing_directory(empty: Cli) -> None:
    directory = empty.file.parent / "missing"
    findings = _findings(empty, code=SETTINGS, database_url=f"sqlite:///{directory / 'flowless.db'}")
    assert (findings["files"]["state"], findings["files"]["mend"]) == ("bad", f"mkdir -m 700 {directory}")
    assert not directory.exists()


def test_doctor_says_how_to_mend_a_missing_database_and_makes_none(empty: Cli) -> None:
    findings = _findings(empty, code=SETTINGS)
    assert (findings["database"]["state"], findings["database"]["mend"]) == ("bad", "flowless migrate")
    assert not empty.file.exists()


def test_doctor_says_how_to_mend_a_missing_schema(empty: Cli) -> None:
    empty.file.touch(0o600)
    findings = _findings(empty, code=SETTINGS)
    assert (findings["database"]["state"], findings["database"]["mend"]) == ("bad", "flowless migrate")


def test_doctor_warns_of_a_database_that_everyone_can_open(cli: Cli) -> None:
    cli.file.chmod(0o644)
    findings = _findings(cli)
    assert (findings["files"]["state"], findings["files"]["mend"]) == ("warn", f"chmod 600 {cli.file}")


def test_doctor_finds_a_damaged_database(cli: Cli) -> None:
    cli.file.write_bytes(b"damaged" * 10_000)
    assert _findings(cli, code=SETTINGS)["database"]["state"] == "bad"


def test_doctor_finds_settings_that_cannot_be_used(cli: Cli) -> None:
    findings = _findings(cli, code=SETTINGS, listen="0.0.0.0:7600")
    assert findings["settings"]["state"] == "bad"
    assert "tls_cert_file" in findings["settings"]["finding"]


def test_doctor_looks_at_transport(cli: Cli, tmp_path: Path) -> None:
    insecure = _findings(cli, listen="0.0.0.0:7600", insecure_listen="true")
    assert insecure["transport"]["state"] == "warn"
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    tls: dict[str, Any] = {"tls_cert_file": str(certificate), "tls_key_file": str(key)}
    assert _findings(cli, code=SETTINGS, **tls)["transport"]["state"] == "bad"
    certificate.touch()
    key.touch(0o644)
    assert _findings(cli, code=SETTINGS, **tls)["transport"]["state"] == "bad"
    pair = Authority().server()
    certificate.write_bytes(pair.certificate)
    key.write_bytes(pair.key)
    key.chmod(0o644)
    assert _findings(cli, **tls)["transport"]["mend"] == f"chmod 600 {key}"
    key.chmod(0o600)
    assert _findings(cli, **tls)["transport"]["state"] == "ok"


# --- in a process of its own ------------------------------------------------------------------------------------


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_whatever_flowless_creates_is_for_its_own_user_alone(empty: Cli) -> None:
    assert empty.process("migrate").returncode == DONE
    assert _mode(empty.file) == 0o600


def test_arguments_that_are_not_text_are_refused_and_not_a_defect(cli: Cli) -> None:
    created = cli.process("users", "create", "a@example.org", "--role", b"\xff", "--password-stdin", stdin=b"x" * 20)
    assert (created.returncode, created.stdout) == (REFUSED, b"")
    assert cli.process("bridges", "revoke", b"\xff").returncode == REFUSED
    assert cli.process("users", "show", b"\xff@example.org").returncode == REFUSED


def test_serving_without_a_schema_says_which_command_to_run(empty: Cli) -> None:
    done = empty.process("serve")
    assert (done.returncode, done.stdout) == (SETTINGS, b"")
    assert b"run `flowless migrate`" in done.stderr


def _serving(cli: Cli, *arguments: str, **environment: str) -> ManagedProcess:
    return ManagedProcess(
        name="flowless",
        module="flowless",
        arguments=arguments or ("serve",),
        environment=cli.environment | environment,
        log=cli.file.parent / "flowless.log",
    )


def test_an_address_that_is_in_use_is_told_clearly(cli: Cli) -> None:
    with _serving(cli) as first:
        cli.environment["FLOWLESS_LISTEN"] = first.address
        done = cli.process("serve")
        assert (done.returncode, done.stdout) == (SETTINGS, b"")
        assert f"cannot listen on {first.address}" in done.stderr.decode()


def test_dev_makes_everything_that_is_needed_and_finds_it_again(empty: Cli) -> None:
    data = empty.file.parent / "data"
    secret_file = data / "bridge-secret"
    secrets = []
    for _ in range(2):
        with _serving(empty, "dev", "--data-dir", str(data), "--listen", "127.0.0.1:0") as process:
            secrets.append(secret_file.read_text().strip())
            with grpc.insecure_channel(process.address) as channel:
                assert Client(channel, secrets[-1]).new_session().session_id
            assert "trustlayer.v1.SessionService" in listed_services(process.address)
    assert secrets[0] == secrets[1]
    assert SECRET.fullmatch(secrets[0])
    assert [_mode(path) for path in (data, secret_file, data / "flowless.db")] == [0o700, 0o600, 0o600]


@pytest.mark.parametrize("lost", ["bridge-secret", "flowless.db"])
def test_dev_mends_what_was_lost(empty: Cli, lost: str) -> None:
    data = empty.file.parent / "data"
    for _ in range(2):
        with _serving(empty, "dev", "--data-dir", str(data), "--listen", "127.0.0.1:0") as process:
            secret = (data / "bridge-secret").read_text().strip()
            with grpc.insecure_channel(process.address) as channel:
                assert Client(channel, secret).new_session().session_id
        (data / lost).unlink()


def test_dev_does_not_listen_where_others_could_reach_it(empty: Cli) -> None:
    data = str(empty.file.parent / "data")
    assert "loopback" in empty.refused("dev", "--data-dir", data, "--listen", "0.0.0.0:0", code=SETTINGS)


def test_doctor_names_a_mistyped_variable_and_none_that_an_orchestrator_sets(cli: Cli) -> None:
    injected = {"service_host": "10.0.0.1", "port": "tcp://10.0.0.1:7600", "port_7600_tcp_addr": "10.0.0.1"}
    assert _findings(cli, code=DONE, **injected)["settings"]["state"] == "ok"
    found = _findings(cli, code=DONE, listenn="127.0.0.1:1", **injected)["settings"]
    assert found["state"] == "warn"
    assert found["finding"] == "no setting reads FLOWLESS_LISTENN"


def test_dev_says_so_when_its_directory_cannot_be_one(empty: Cli) -> None:
    empty.file.write_text("a file")
    assert "cannot be used as a directory" in empty.refused("dev", "--data-dir", str(empty.file), code=SETTINGS)
