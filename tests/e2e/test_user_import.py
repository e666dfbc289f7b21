"""Another system's users, by the RPC and by the command; their hashes are replaced at the first login."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from tests.support.flowless import BROWSER, Client, Flowless, failure_of, outcome, running_flowless, violated_fields
from tests.support.repository import ROOT
from tests.unit.flowless.test_password_schemes import FOREIGN, PASSWORD, TOO_DEAR
from tools.processes import temporary_directory
from trustlayer.v1 import identity_pb2, session_pb2

pytestmark = pytest.mark.long

HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()


@pytest.fixture(scope="module")
def flowless() -> Iterator[Flowless]:
    with temporary_directory() as directory, running_flowless(directory) as running:
        yield running


@pytest.fixture(scope="module")
def client(flowless: Flowless) -> Client:
    return flowless.client


def _import(client: Client, *batches: list[identity_pb2.ImportedUser]) -> list[identity_pb2.ImportUsersResponse]:
    requests = [identity_pb2.ImportUsersRequest(users=users) for users in batches]
    return list(client.identity.ImportUsers(iter(requests)))


def _user(number: int, email: str, **fields: Any) -> identity_pb2.ImportedUser:
    return identity_pb2.ImportedUser(number=number, email=email, **{"password_hash": HASH, **fields})


def _log_in(client: Client, login: str, password: str = PASSWORD) -> session_pb2.LoginResponse:
    return client.sessions.Login(session_pb2.LoginRequest(login=login, password=password, context=BROWSER))


def _stored_hash(flowless: Flowless, email: str) -> str:
    with flowless.sql() as connection:
        (found,) = connection.execute("SELECT password_hash FROM users WHERE email = ?", (email,)).fetchone()
    return str(found)


@pytest.mark.parametrize("name", FOREIGN)
def test_a_hash_of_another_system_logs_in_and_is_replaced_at_the_first_login(
    flowless: Flowless, client: Client, name: str
) -> None:
    email = f"{name.replace(' ', '-').lower()}@imported.example"
    assert _import(client, [_user(1, email, password_hash=FOREIGN[name])])[0].added == 1
    assert _stored_hash(flowless, email) == FOREIGN[name]
    assert outcome(lambda: _log_in(client, email, "wrong password"))[1] == "LOGIN_REFUSED"
    assert _stored_hash(flowless, email) == FOREIGN[name]
    _log_in(client, email)
    assert _stored_hash(flowless, email).startswith("$argon2id$v=19$m=8,t=1,p=1$")
    _log_in(client, email)


def test_records_that_are_refused_stop_nothing_and_tell_nothing_of_themselves(client: Client) -> None:
    secret = "$2b$04$" + "secret" * 10
    (answer,) = _import(
        client,
        [
            _user(1, "good-one@imported.example", roles=["a"], user_name="imported.one"),
            _user(2, "secret-nonsense"),
            _user(3, "three@imported.example", password_hash=secret),
            _user(4, "GOOD-ONE@imported.example"),
            _user(5, "five@imported.example", user_name="Imported.ONE"),
            _user(6, "six@imported.example", password_hash=TOO_DEAR["4 GiB"]),
            _user(7, "good-two@imported.example", password_hash="", disabled=True),
        ],
    )
    assert (answer.added, answer.present) == (2, 1)
    assert [rejection.number for rejection in answer.rejections] == [2, 3, 5, 6]
    assert "secret" not in str(answer)
    assert list(_log_in(client, "imported.one").session.user.roles) == ["a"]
    assert outcome(lambda: _log_in(client, "good-two@imported.example"))[1] == "LOGIN_REFUSED"


def test_a_run_that_is_repeated_adds_nobody_twice_and_changes_nobody(flowless: Flowless, client: Client) -> None:
    batches = [[_user(n, f"again-{n}@imported.example") for n in range(k, k + 3)] for k in (1, 4)]
    assert [answer.added for answer in _import(client, *batches)] == [3, 3]
    _log_in(client, "again-1@imported.example")
    upgraded = _stored_hash(flowless, "again-1@imported.example")
    assert [(answer.added, answer.present) for answer in _import(client, *batches)] == [(0, 3), (0, 3)]
    assert _stored_hash(flowless, "again-1@imported.example") == upgraded


@pytest.mark.parametrize("numbers", [[0], [2, 1], [1, 1]])
def test_numbers_rise_from_record_to_record(client: Client, numbers: list[int]) -> None:
    users = [_user(number, f"n{number}@imported.example") for number in numbers]
    assert violated_fields(failure_of(lambda: _import(client, users))) == ["users.number"]


@pytest.mark.parametrize("count", [0, 501])
def test_a_batch_has_a_bounded_size(client: Client, count: int) -> None:
    users = [_user(n + 1, f"many-{n}@imported.example") for n in range(count)]
    assert violated_fields(failure_of(lambda: _import(client, users))) == ["users"]


# --- the command ------------------------------------------------------------------------------------------------


def _command(flowless: Flowless, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = flowless.process.try_command("users", "import", *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def _jsonl(path: Path, lines: list[object]) -> str:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines))
    return str(path)


def test_a_file_of_json_lines_is_imported_with_a_report(flowless: Flowless, client: Client, tmp_path: Path) -> None:
    lines: list[object] = [{"email": f"file-{n}@imported.example", "password_hash": HASH} for n in range(1_200)]
    lines[3] = "{broken"
    lines[700] = {"email": "x", "password_hash": HASH}
    lines[701] = {"email": "y@imported.example", "pasword": HASH}
    lines[702] = {"email": "z@imported.example", "roles": 7}
    file, report = _jsonl(tmp_path / "users.jsonl", lines), tmp_path / "refused.jsonl"
    checked = _command(flowless, file, "--dry-run", "--json")
    assert json.loads(checked.stdout) == {"lines": 1_200, "added": 0, "present": 0, "refused": 4}
    done = _command(flowless, file, "--report", str(report), "--json")
    assert (done.returncode, json.loads(done.stdout)) == (
        1,
        {"lines": 1_200, "added": 1_196, "present": 0, "refused": 4},
    )
    refused = [json.loads(line) for line in report.read_text().splitlines()]
    assert [each["line"] for each in refused] == [4, 701, 702, 703]
    assert HASH not in report.read_text() + done.stdout + done.stderr
    again = _command(flowless, file, "--json")
    assert json.loads(again.stdout) == {"lines": 1_200, "added": 0, "present": 1_196, "refused": 4}
    assert again.stderr.count("line ") >= 4
    _log_in(client, "file-1199@imported.example")


def test_a_csv_file_is_imported(flowless: Flowless, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "users.csv"
    file.write_text(
        "email,password_hash,name,roles,email_verified,attributes\n"
        f'csv@imported.example,"{HASH}",Ada,"a, b",true,"{{""plan"": ""pro""}}"\n'
    )
    assert _command(flowless, str(file)).returncode == 0
    user = _log_in(client, "csv@imported.example").session.user
    assert (user.name, list(user.roles), user.email_verified, user.attributes["plan"]) == (
        "Ada",
        ["a", "b"],
        True,
        "pro",
    )


def test_a_file_that_cannot_be_read_is_said_so(flowless: Flowless, tmp_path: Path) -> None:
    assert "cannot read" in _command(flowless, str(tmp_path / "missing.jsonl")).stderr
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in _command(flowless, str(binary)).stderr


def test_a_run_that_was_killed_is_finished_by_the_next(flowless: Flowless, tmp_path: Path) -> None:
    lines: list[object] = [{"email": f"killed-{n}@imported.example", "password_hash": HASH} for n in range(5_000)]
    file = _jsonl(tmp_path / "users.jsonl", lines)

    def count() -> int:
        with flowless.sql() as connection:
            query = "SELECT count(*) FROM users WHERE email LIKE 'killed-%'"
            return int(connection.execute(query).fetchone()[0])

    first = subprocess.Popen(
        [sys.executable, "-m", "flowless", "users", "import", file],
        cwd=ROOT, env=flowless.process.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while count() == 0 and first.poll() is None:
        pass
    first.kill()
    first.wait()
    there = count()
    assert there % 500 == 0
    answer = json.loads(_command(flowless, file, "--json").stdout)
    assert answer == {"lines": 5_000, "added": 5_000 - there, "present": there, "refused": 0}
