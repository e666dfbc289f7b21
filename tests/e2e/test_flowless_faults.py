"""Flowless when it is stopped, killed, locked out of its database or out of disk: nothing lost, nothing leaked."""

import json
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import field_mask_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from flowless.domain.bridges import Scope
from tests.support.flowless import (
    BROWSER,
    PASSWORD,
    Client,
    Flowless,
    code_of,
    failure_of,
    outcome,
    prepare,
    running_flowless,
    served,
)
from tests.support.rpc import detail, reason
from trust_core.identifiers import digest
from trustlayer.v1 import admin_pb2, identity_pb2, session_pb2, types_pb2

pytestmark = pytest.mark.long


def _sigterm(flowless: Flowless) -> None:
    flowless.process.signal(signal.SIGTERM)


def _logged(flowless: Flowless) -> list[dict[str, Any]]:
    return [json.loads(line) for line in flowless.log_text.splitlines()]


# --- an orderly end ---------------------------------------------------------------------------------------------


def test_at_sigterm_watchers_are_sent_away_and_the_program_ends_well(run_dir: Path) -> None:
    with running_flowless(run_dir, drain_seconds="20") as flowless:
        with flowless.client.watch() as one, flowless.client.watch() as two:
            for watch in (one, two):
                watch.ready()
            revision = flowless.client.revoke(flowless.client.new_session().session.handle)
            for watch in (one, two):
                assert [row.revision for row in watch.rows(1)] == [revision]
            _sigterm(flowless)
            for watch in (one, two):
                assert watch.rows_until("go_away")[0] == []
                with pytest.raises(StopIteration):
                    watch.receive()
        assert flowless.process.wait(20) == 0
        events = [line["event"] for line in _logged(flowless)]
        assert events == ["serving", "draining", "stopped"]


def _login_in_flight(flowless: Flowless, user: types_pb2.User) -> Any:
    """A login that has arrived and waits for the database, which has to be locked."""
    request = session_pb2.LoginRequest(login=user.email, password=PASSWORD, context=BROWSER)
    login = flowless.client.sessions.Login.future(request)
    flowless.client.validate("")  # on the same connection, so behind the login
    assert not login.done()
    return login


def test_from_sigterm_on_health_does_not_say_serving_and_what_is_in_flight_is_finished(run_dir: Path) -> None:
    with (
        running_flowless(run_dir, drain_seconds="30", busy_timeout_seconds="30") as flowless,
        grpc.insecure_channel(flowless.process.address) as channel,
    ):
        health: Any = HealthStub(channel)
        user = flowless.client.register()

        def is_serving() -> bool:
            try:
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=20)
            except grpc.RpcError as error:
                # What gRPC had queued when the server stopped listening ends as CANCELLED.
                assert code_of(error) in ("UNAVAILABLE", "CANCELLED")
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        assert is_serving()
        with flowless.locked_database():
            login = _login_in_flight(flowless, user)
            _sigterm(flowless)
            deadline = time.monotonic() + 20
            while is_serving():
                assert time.monotonic() < deadline
            assert not login.done()
            assert flowless.process.is_running
        handle = login.result(20).session.handle
        assert flowless.process.wait(20) == 0
        with flowless.sql() as database:
            assert database.execute("SELECT handle FROM sessions").fetchall() == [(handle,)]


def test_after_sigterm_health_says_not_serving_while_calls_are_still_answered(run_dir: Path) -> None:
    with (
        running_flowless(run_dir, lame_duck_seconds="2") as flowless,
        grpc.insecure_channel(flowless.process.address) as channel,
    ):
        health: Any = HealthStub(channel)
        _sigterm(flowless)
        deadline = time.monotonic() + 20
        states = health_pb2.HealthCheckResponse
        while health.Check(health_pb2.HealthCheckRequest(), timeout=20).status != states.NOT_SERVING:
            assert time.monotonic() < deadline
        assert outcome(lambda: flowless.client.denial("x")) == ("OK", "")
        assert flowless.process.wait(20) == 0


def test_logins_in_flight_are_finished_before_the_program_ends(run_dir: Path) -> None:
    """With passwords at a real cost, so that many logins still wait for their hash when the signal comes."""
    with running_flowless(run_dir, testing="false", password_profile="owasp") as flowless:
        user = flowless.client.register()
        request = session_pb2.LoginRequest(login=user.email, password=PASSWORD, context=BROWSER)
        logins = [flowless.client.sessions.Login.future(request) for _ in range(16)]
        for first in logins[:2]:
            first.result(20)
        assert not all(login.done() for login in logins)
        _sigterm(flowless)
        handles = {login.result(20).session.handle for login in logins}
        assert len(handles) == 16
        assert flowless.process.wait(20) == 0
        with flowless.sql() as database:
            assert handles == {handle for (handle,) in database.execute("SELECT handle FROM sessions")}


def test_a_call_that_outlasts_the_drain_is_cut_and_the_program_still_ends_well(run_dir: Path) -> None:
    with running_flowless(run_dir, drain_seconds="0.1", busy_timeout_seconds="1") as flowless:
        user = flowless.client.register()
        with flowless.locked_database():
            login = _login_in_flight(flowless, user)
            _sigterm(flowless)
            assert code_of(failure_of(lambda: login.result(20))) in {"UNAVAILABLE", "CANCELLED"}
            assert flowless.process.wait(20) == 0


# --- a sudden end -----------------------------------------------------------------------------------------------


def test_no_revoke_that_returned_is_lost_when_the_program_is_killed(run_dir: Path) -> None:
    file, secret = prepare(run_dir)
    returned: dict[str, int] = {}
    with served(run_dir, file, secret, session_max_per_user="200") as flowless:
        user = flowless.client.register()
        logins = {login.session.handle: login for login in (flowless.client.log_in(user) for _ in range(150))}
        enough = threading.Event()

        def revoke_all() -> None:
            for handle in logins:
                try:
                    returned[handle] = flowless.client.revoke(handle)
                except grpc.RpcError:
                    return
                if len(returned) == 30:
                    enough.set()

        revoking = threading.Thread(target=revoke_all)
        revoking.start()
        assert enough.wait(20)
        flowless.process.kill()
        revoking.join(20)
    assert 30 <= len(returned) < len(logins)
    with closing(sqlite3.connect(file)) as database:
        rows = dict(database.execute("SELECT revision, key FROM revocations ORDER BY revision"))
        (end,) = database.execute("SELECT revision FROM log_head").fetchone()
        revoked = dict(database.execute("SELECT handle, hex(digest) FROM sessions WHERE revoked_us IS NOT NULL"))
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert list(rows) == list(range(1, end + 1))
    assert {handle: rows[revision] for handle, revision in returned.items()} == {
        handle: digest(logins[handle].session_id).hex() for handle in returned
    }
    assert sorted(rows.values()) == sorted(key.lower() for key in revoked.values())
    with served(run_dir, file, secret) as again:
        for handle, revision in returned.items():
            assert again.client.denial(logins[handle].session_id, min_revision=revision) == "REVOKED"


# --- storage that fails -----------------------------------------------------------------------------------------


def _every_kind_of_write(client: Client, login: session_pb2.LoginResponse) -> list[Callable[[], object]]:
    user = login.session.user
    again = session_pb2.LoginRequest(login=user.email, password=PASSWORD, context=BROWSER)
    update = identity_pb2.UpdateUserRequest(
        user_id=user.id, user=types_pb2.User(name="x"), update_mask=field_mask_pb2.FieldMask(paths=["name"])
    )
    return [
        client.register,
        lambda: client.sessions.Login(again),
        lambda: client.sessions.Logout(session_pb2.LogoutRequest(session_id=login.session_id)),
        lambda: client.sessions.RotateSession(session_pb2.RotateSessionRequest(session_id=login.session_id)),
        lambda: client.revoke(login.session.handle),
        lambda: client.sessions.RevokeUserSessions(session_pb2.RevokeUserSessionsRequest(user_id=user.id)),
        lambda: client.identity.UpdateUser(update),
        lambda: client.identity.DisableUser(identity_pb2.DisableUserRequest(user_id=user.id)),
        lambda: client.identity.DeleteUser(identity_pb2.DeleteUserRequest(user_id=user.id)),
        lambda: client.create_bridge(Scope.VALIDATE),
    ]


def _assert_no_leak(flowless: Flowless) -> None:
    assert "Traceback" not in flowless.log_text
    assert "SELECT" not in flowless.log_text
    assert "UPDATE" not in flowless.log_text


def test_while_another_process_locks_the_database_writes_are_unavailable_and_reads_work(run_dir: Path) -> None:
    with running_flowless(run_dir, busy_timeout_seconds="0.1", log_level="debug") as flowless:
        login = flowless.client.new_session()
        with flowless.client.watch() as watch, flowless.locked_database():
            watch.ready()
            for write in _every_kind_of_write(flowless.client, login):
                error = failure_of(write)
                assert (code_of(error), reason(error)) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE")
                retry = detail(error, error_details_pb2.RetryInfo)
                assert retry is not None
                assert retry.retry_delay.ToTimedelta().total_seconds() > 0
                assert "sqlite" not in str(error).lower()
            assert flowless.client.denial(login.session_id) == ""
            watch.ping(1)
        flowless.client.revoke(login.session.handle)
        assert flowless.client.denial(login.session_id) == "REVOKED"
        _assert_no_leak(flowless)


@contextmanager
def _full_disk(flowless: Flowless) -> Iterator[None]:
    """Let no file of the program grow any more."""
    size = max(path.stat().st_size for path in flowless.file.parent.iterdir() if path.is_file())
    before = resource.prlimit(flowless.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(flowless.process.pid, resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.prlimit(flowless.process.pid, resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_writes_are_unavailable_and_sessions_are_still_validated(run_dir: Path) -> None:
    with running_flowless(run_dir) as flowless:
        client = flowless.client
        login, other = client.new_session(), client.new_session()
        with client.watch() as watch:
            _, end = client.end()
            watch.ready()
            with _full_disk(flowless):
                for write in _every_kind_of_write(client, login):
                    error = failure_of(write)
                    assert code_of(error) == "UNAVAILABLE"
                    assert reason(error) in {"STORAGE_FULL", "STORAGE_UNAVAILABLE"}
                    assert detail(error, error_details_pb2.RetryInfo) is not None
                assert client.denial(login.session_id) == ""
                rows, pong = watch.ping(1)
                assert (rows, pong.revision) == ([], end)
            revision = client.revoke(other.session.handle)
            assert revision == end + 1
            assert [row.revision for row in watch.ping(2)[0]] == [revision]
        assert client.denial(login.session_id) == ""
        _assert_no_leak(flowless)
        with flowless.sql() as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_when_the_database_is_damaged_nothing_is_said_to_be_active(run_dir: Path) -> None:
    with running_flowless(run_dir, poll_seconds="0.05") as flowless:
        login = flowless.client.new_session()
        with flowless.sql() as database:
            database.execute("DROP TABLE sessions")
        answers = {outcome(lambda: flowless.client.validate(login.session_id)) for _ in range(3)}
        assert answers == {("UNAVAILABLE", "STORAGE_UNAVAILABLE")}
        with flowless.sql() as database:
            database.execute("DROP TABLE log_head")
        with flowless.client.watch() as watch:
            watch.ready()
            watch.send(ping={"nonce": 1})
            assert reason(watch.failure()) == "STORAGE_UNAVAILABLE"
        _assert_no_leak(flowless)
        assert flowless.process.is_running


# --- secrets ----------------------------------------------------------------------------------------------------


def test_no_secret_is_ever_written_anywhere(run_dir: Path) -> None:
    """Every file that the process wrote, with the database's log, and its output, at the most talkative level."""
    with running_flowless(run_dir, log_level="debug", busy_timeout_seconds="0.1") as flowless:
        client = flowless.client
        bridge_id, first = client.create_bridge(*Scope)
        second = client.admin.RotateBridgeSecret(admin_pb2.RotateBridgeSecretRequest(bridge_id=bridge_id)).secret
        user = client.register()
        login, ended = client.log_in(user), client.log_in(user)
        rotate = session_pb2.RotateSessionRequest(session_id=client.log_in(user).session_id)
        rotated = client.sessions.RotateSession(rotate)
        client.sessions.Logout(session_pb2.LogoutRequest(session_id=ended.session_id))
        secrets = [
            PASSWORD,
            client.secret,
            first,
            second,
            login.session_id,
            ended.session_id,
            rotate.session_id,
            rotated.session_id,
        ]
        # Secrets where they do not belong, and while storage fails.
        for secret in secrets:
            with suppress(grpc.RpcError):
                client.identity.GetUser(identity_pb2.GetUserRequest(user_id=secret))
            with suppress(grpc.RpcError):
                client.identity.LookUpUser(identity_pb2.LookUpUserRequest(login=secret))
            with suppress(grpc.RpcError):
                client.revoke(secret)
            with suppress(grpc.RpcError):
                client.validate(secret, mode=99)
            with suppress(grpc.RpcError), client.watch(log_id=secret, instance=secret) as watch:
                watch.receive()
        with flowless.locked_database():
            for write in _every_kind_of_write(client, login):
                failure_of(write)
        _sigterm(flowless)
        assert flowless.process.wait(20) == 0
        written = {path.name: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
        written["standard output"] = flowless.process.said_after_ready()
    assert {"flowless.db", "flowless.log"} <= set(written)
    assert written["flowless.log"]
    for name, content in written.items():
        for secret in secrets:
            assert secret.encode() not in content, name
            assert secret.encode()[5:30] not in content, name
    assert digest(login.session_id) in written["flowless.db"]


def test_no_secret_is_in_the_database_or_its_log_while_the_program_runs(run_dir: Path) -> None:
    with running_flowless(run_dir) as flowless:
        login = flowless.client.new_session()
        files = {path.name: path.read_bytes() for path in run_dir.iterdir()}
        assert "flowless.db-wal" in files
        assert digest(login.session_id) in files["flowless.db-wal"]
        for content in files.values():
            assert login.session_id.encode() not in content
            assert flowless.client.secret.encode() not in content
            assert PASSWORD.encode() not in content
