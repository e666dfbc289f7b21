"""The watch stream: start, ready, replay, rows and pongs in one order, and every way in which it ends."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

from flowless.domain.bridges import Scope
from tests.support.flowless import (
    Client,
    Flowless,
    Watch,
    code_of,
    failure_of,
    outcome,
    running_flowless,
    served,
    violated_fields,
)
from tests.support.rpc import reason
from tools.processes import temporary_directory
from trust_core.identifiers import digest
from trustlayer.v1 import admin_pb2, bridge_pb2, identity_pb2, session_pb2

MANY = 2_500
"""More rows than two batches hold."""


@pytest.fixture(scope="module")
def flowless() -> Iterator[Flowless]:
    with temporary_directory() as directory, running_flowless(directory) as running:
        yield running


@pytest.fixture(scope="module")
def client(flowless: Flowless) -> Client:
    return flowless.client


def _insert_rows(flowless: Flowless, count: int) -> int:
    """Append rows to the log as another replica does, in one transaction; return the new end."""
    with flowless.sql() as database:
        (end,) = database.execute("SELECT revision FROM log_head").fetchone()
        rows = [(end + n, "user", f"usr_{n:022d}", 0) for n in range(1, count + 1)]
        database.execute("UPDATE log_head SET revision = revision + ?", (count,))
        database.executemany("INSERT INTO revocations VALUES (?, ?, ?, ?)", rows)
    return int(end) + count


# --- the protocol -----------------------------------------------------------------------------------------------


def test_a_new_watcher_begins_with_an_empty_cache_at_the_logs_end(client: Client) -> None:
    _, end = client.end()
    with client.watch(instance="sidecar-1", max_staleness=duration_pb2.Duration(seconds=2)) as watch:
        ready = watch.ready()
        assert len(ready.log_id) == 32
        assert (ready.reset, ready.revision) == (True, end)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"ping": bridge_pb2.WatchPing(nonce=1)}, "start"),
        ({}, "start"),
        ({"start": bridge_pb2.WatchStart(last_revision=-1)}, "start.last_revision"),
        ({"start": bridge_pb2.WatchStart(instance="x" * 129)}, "start.instance"),
        ({"start": bridge_pb2.WatchStart(instance="a\nb")}, "start.instance"),
        ({"start": bridge_pb2.WatchStart(log_id="x" * 65)}, "start.log_id"),
        (
            {"start": bridge_pb2.WatchStart(max_staleness=duration_pb2.Duration(seconds=2**62))},
            "start.max_staleness",
        ),
    ],
)
def test_a_watch_that_begins_with_anything_but_a_good_start_is_refused(
    client: Client, message: dict[str, Any], field: str
) -> None:
    with Watch(client.bridge) as watch:
        watch.send(**message)
        error = watch.failure()
    assert (reason(error), violated_fields(error)) == ("INVALID_FIELD", [field])


def test_a_watch_that_says_nothing_at_all_is_refused(client: Client) -> None:
    with Watch(client.bridge) as watch:
        watch.half_close()
        assert violated_fields(watch.failure()) == ["start"]


@pytest.mark.parametrize("message", [{"start": bridge_pb2.WatchStart()}, {}])
def test_nothing_but_pings_may_follow_the_start(client: Client, message: dict[str, Any]) -> None:
    with client.watch() as watch:
        watch.ready()
        watch.send(**message)
        error = watch.failure()
    assert (reason(error), violated_fields(error)) == ("INVALID_FIELD", ["message"])


def test_a_watcher_that_half_closes_has_left(client: Client) -> None:
    with client.watch() as watch:
        watch.ready()
        watch.half_close()
        with pytest.raises(StopIteration):
            watch.receive()


def test_a_pong_repeats_its_pings_nonce_and_tells_the_logs_end(client: Client) -> None:
    with client.watch() as watch:
        end = watch.ready().revision
        for nonce in (1, 2, 2**62, 0, -1):
            rows, pong = watch.ping(nonce)
            assert (rows, pong.revision) == ([], end)


def test_every_ping_gets_its_pong_in_order(client: Client) -> None:
    with client.watch() as watch:
        watch.ready()
        for nonce in range(50):
            watch.send(ping=bridge_pb2.WatchPing(nonce=nonce))
        assert [watch.receive().pong.nonce for _ in range(50)] == list(range(50))


def test_a_revocation_that_returned_before_a_ping_is_told_before_its_pong(client: Client) -> None:
    user = client.register()
    with client.watch() as watch:
        watch.ready()
        for nonce in range(20):
            revision = client.revoke(client.log_in(user).session.handle)
            rows, pong = watch.ping(nonce)
            assert [row.revision for row in rows] == [revision]
            assert pong.revision == revision


def test_each_row_names_what_to_drop_and_only_that(client: Client) -> None:
    login = client.new_session()
    user_id = login.session.user.id
    bridge_id, _ = client.create_bridge(Scope.VALIDATE)
    with client.watch() as watch:
        start = watch.ready().revision
        client.sessions.Logout(session_pb2.LogoutRequest(session_id=login.session_id))
        client.identity.DisableUser(identity_pb2.DisableUserRequest(user_id=user_id))
        client.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=bridge_id))
        rows = watch.rows(3)
    assert rows == [
        bridge_pb2.Revocation(revision=start + 1, session_digest=digest(login.session_id)),
        bridge_pb2.Revocation(revision=start + 2, user_id=user_id),
        bridge_pb2.Revocation(revision=start + 3),
    ]


# --- replay -----------------------------------------------------------------------------------------------------


def test_a_watcher_that_comes_back_is_told_what_it_missed_and_nothing_else(client: Client) -> None:
    log_id, end = client.end()
    revisions = [client.revoke(client.new_session().session.handle) for _ in range(3)]
    for last in (end, revisions[0], revisions[2]):
        with client.watch(log_id=log_id, last_revision=last) as watch:
            ready = watch.ready()
            assert (ready.log_id, ready.reset, ready.revision) == (log_id, False, last)
            rows, pong = watch.ping(1)
            assert [row.revision for row in rows] == [r for r in revisions if r > last]
            assert pong.revision == revisions[2]


def test_a_long_replay_comes_whole_and_in_order_with_later_rows_behind_it(flowless: Flowless, client: Client) -> None:
    log_id, start = client.end()
    end = _insert_rows(flowless, MANY)
    with client.watch(log_id=log_id, last_revision=start) as watch:
        assert not watch.ready().reset
        assert client.revoke(client.new_session().session.handle) == end + 1
        rows, pong = watch.ping(1)
    assert [row.revision for row in rows] == list(range(start + 1, end + 2))
    assert pong.revision == end + 1


def test_rows_that_another_replica_wrote_reach_a_watcher_without_a_ping(flowless: Flowless, client: Client) -> None:
    with client.watch() as watch:
        start = watch.ready().revision
        end = _insert_rows(flowless, MANY)
        assert [row.revision for row in watch.rows(MANY)] == list(range(start + 1, end + 1))


@pytest.mark.parametrize("beyond", [1, 10**6, 2**62])
def test_a_watcher_that_claims_more_than_there_is_has_to_start_over(client: Client, beyond: int) -> None:
    log_id, end = client.end()
    with client.watch(log_id=log_id, last_revision=end + beyond) as watch:
        ready = watch.ready()
        assert (ready.reset, ready.revision) == (True, end)


@pytest.mark.parametrize("log_id", ["", "0" * 32, "another log"])
def test_a_watcher_of_another_log_has_to_start_over(client: Client, log_id: str) -> None:
    mine, end = client.end()
    for last in (0, end):
        with client.watch(log_id=log_id, last_revision=last) as watch:
            ready = watch.ready()
            assert (ready.log_id, ready.reset, ready.revision) == (mine, True, end)


def test_a_watcher_from_before_the_compacted_part_has_to_start_over(flowless: Flowless, client: Client) -> None:
    log_id, _ = client.end()
    end = _insert_rows(flowless, 10)
    with flowless.sql() as database:
        database.execute("DELETE FROM revocations WHERE revision <= ?", (end - 5,))
        database.execute("UPDATE log_head SET compacted_through = ?", (end - 5,))
    with client.watch(log_id=log_id, last_revision=end - 6) as watch:
        ready = watch.ready()
        assert (ready.reset, ready.revision) == (True, end)
    with client.watch(log_id=log_id, last_revision=end - 5) as watch:
        assert not watch.ready().reset
        assert [row.revision for row in watch.rows(5)] == list(range(end - 4, end + 1))


# --- bridges that change ----------------------------------------------------------------------------------------


def _revoke(client: Client, bridge_id: str) -> None:
    client.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=bridge_id))


def _rotate(client: Client, bridge_id: str) -> None:
    client.admin.RotateBridgeSecret(admin_pb2.RotateBridgeSecretRequest(bridge_id=bridge_id))


@pytest.mark.parametrize("change", [_revoke, _rotate])
def test_a_bridge_that_lost_its_credential_loses_its_stream_and_cannot_come_back(
    flowless: Flowless, client: Client, change: Callable[[Client, str], None]
) -> None:
    bridge_id, secret = client.create_bridge(Scope.VALIDATE)
    with grpc.insecure_channel(flowless.process.address) as channel:
        other = Client(channel, secret)
        with other.watch() as watch, client.watch() as unconcerned:
            watch.ready()
            unconcerned.ready()
            change(client, bridge_id)
            error = watch.failure()
            assert (code_of(error), reason(error)) == ("UNAVAILABLE", "DRAINING")
            unconcerned.ping(1)
        with other.watch() as again:
            assert reason(again.failure()) == "BRIDGE_CREDENTIAL_REFUSED"


def test_a_bridge_that_was_rotated_with_an_overlap_comes_back_with_either_secret(
    flowless: Flowless, client: Client
) -> None:
    bridge_id, old = client.create_bridge(Scope.VALIDATE)
    request = admin_pb2.RotateBridgeSecretRequest(bridge_id=bridge_id, overlap=duration_pb2.Duration(seconds=3600))
    with grpc.insecure_channel(flowless.process.address) as channel:
        with Client(channel, old).watch() as watch:
            watch.ready()
            new = client.admin.RotateBridgeSecret(request).secret
            assert reason(watch.failure()) == "DRAINING"
        for secret in (old, new):
            assert Client(channel, secret).end()[1] > 0


# --- replicas and limits ----------------------------------------------------------------------------------------


def test_a_replica_serves_no_more_watchers_than_it_was_told_to() -> None:
    with (
        temporary_directory() as directory,
        running_flowless(directory, max_watchers="2") as running,
        contextlib.ExitStack() as open_watches,
    ):
        for _ in range(2):
            open_watches.enter_context(running.client.watch()).ready()
        with running.client.watch() as third:
            error = third.failure()
            assert (code_of(error), reason(error)) == ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS")
        open_watches.close()
        for _ in range(200):  # the places of watchers that left are free as soon as the server has noticed
            if outcome(running.client.end)[0] == "OK":
                return
        pytest.fail("the places stay taken")


def test_a_revoke_on_one_replica_reaches_a_watcher_of_another() -> None:
    with temporary_directory() as directory, running_flowless(directory) as one:
        (directory / "two").mkdir()
        with served(directory / "two", one.file, one.client.secret) as two, two.client.watch() as watch:
            assert watch.ready().log_id == one.client.end()[0]
            login = one.client.new_session()
            assert two.client.denial(login.session_id) == ""
            revision = one.client.revoke(login.session.handle)
            assert watch.rows(1)[0].revision == revision
            assert two.client.denial(login.session_id, min_revision=revision) == "REVOKED"
            for nonce in range(10):
                revision = one.client.revoke(one.client.new_session().session.handle)
                rows, pong = watch.ping(nonce)
                # The row may have come by itself, before the ping; never after its pong.
                assert pong.revision == revision
                assert [row.revision for row in rows] == [revision]
            bridge_id, secret = one.client.create_bridge(Scope.VALIDATE)
            with grpc.insecure_channel(two.process.address) as channel:
                with Client(channel, secret).watch() as doomed:
                    doomed.ready()
                    _revoke(one.client, bridge_id)
                    assert reason(doomed.failure()) == "DRAINING"
                refused = failure_of(lambda: Client(channel, secret).end())
                assert reason(refused) == "BRIDGE_CREDENTIAL_REFUSED"
