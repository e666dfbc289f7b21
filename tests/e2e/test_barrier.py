"""A revoke that waits for all sidecars, over real processes: afterwards the bound is zero."""

import itertools
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.support.flowless import Client, fresh_email
from tests.support.replicas import outcome
from tests.support.rpc import reason
from tests.support.system import BRIDGE, App, System, prepared_flowless, running_system
from tools.processes import ProcessError, SidecarProcess, temporary_directory
from trustlayer.v1 import admin_pb2, session_pb2

pytestmark = pytest.mark.long

STALENESS_SECONDS = 1.0
LONG_SECONDS = 30.0
WAIT = session_pb2.REVOKE_WAIT_ALL_SIDECARS
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def system(module_dir: Path) -> Iterator[System]:
    with running_system(module_dir, max_staleness_seconds=STALENESS_SECONDS) as running:
        yield running


@pytest.fixture(scope="module")
def patient() -> Iterator[System]:
    """With leases so long that one which is held when a test begins is held when it ends."""
    with (
        temporary_directory() as directory,
        running_system(directory, max_staleness_seconds=LONG_SECONDS) as running,
    ):
        yield running


@pytest.fixture
def client(system: System) -> Iterator[Client]:
    """A bridge past the sidecar."""
    secret = system.flowless.create_bridge(f"direct-{next(_numbers)}", ["sessions", "admin"]).secret
    with grpc.insecure_channel(system.flowless.address) as channel:
        yield Client(channel, secret)


def cached_session(system: System, email: str = "") -> session_pb2.LoginResponse:
    email = email or fresh_email()
    system.app.register(email)
    login = system.app.log_in(email)
    assert outcome(system.app, login.session_id) == "ACTIVE"
    return login


def test_after_a_reached_barrier_the_next_question_is_refused(system: System) -> None:
    for _ in range(20):
        login = cached_session(system)
        request = session_pb2.RevokeSessionRequest(handle=login.session.handle, wait=WAIT)
        barrier = system.app.sessions.RevokeSession(request).barrier
        assert outcome(system.app, login.session_id) == "REVOKED"
        assert (barrier.reached, barrier.applied, barrier.expired, barrier.waiting) == (True, 1, 0, 0)


def test_all_of_a_users_sessions_are_refused_after_a_reached_barrier(system: System) -> None:
    email = fresh_email()
    login = cached_session(system, email)
    another = system.app.log_in(email)
    request = session_pb2.RevokeUserSessionsRequest(
        user_id=login.session.user.id, except_handle=another.session.handle, wait=WAIT
    )
    assert system.app.sessions.RevokeUserSessions(request).barrier.reached
    assert outcome(system.app, login.session_id) == "REVOKED"
    assert outcome(system.app, another.session_id) == "ACTIVE"


def test_a_revoke_that_is_repeated_waits_as_well(system: System) -> None:
    login = cached_session(system)
    request = session_pb2.RevokeSessionRequest(handle=login.session.handle, wait=WAIT)
    first = system.app.sessions.RevokeSession(request)
    again = system.app.sessions.RevokeSession(request)
    assert again.barrier.reached
    assert again.revision == first.revision


def test_who_does_not_ask_gets_no_barrier(system: System) -> None:
    request = session_pb2.RevokeSessionRequest(handle=cached_session(system).session.handle)
    assert not system.app.sessions.RevokeSession(request).HasField("barrier")


def test_a_sidecar_that_hangs_is_waited_for_until_its_lease_is_over_and_says_no_when_it_wakes(
    system: System, client: Client
) -> None:
    login = cached_session(system)
    system.sidecar.signal(signal.SIGSTOP)
    try:
        barrier = client.sessions.RevokeSession(
            session_pb2.RevokeSessionRequest(handle=login.session.handle, wait=WAIT)
        ).barrier
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(outcome(system.app, login.session_id)))
        asking.start()  # after the barrier, before the sidecar wakes
        time.sleep(0.1)
    finally:
        system.sidecar.signal(signal.SIGCONT)
    asking.join()
    assert (barrier.reached, barrier.applied, barrier.expired) == (True, 0, 1)
    assert answers[0] == "REVOKED"


def direct(
    system: System, request: session_pb2.RevokeSessionRequest, *, timeout: float = 20
) -> session_pb2.RevokeBarrier:
    """Revoke past the sidecar, which hangs meanwhile."""
    secret = system.flowless.create_bridge(f"direct-{next(_numbers)}", ["sessions"]).secret
    with grpc.insecure_channel(system.flowless.address) as channel:
        grpc.channel_ready_future(channel).result(20)
        system.sidecar.signal(signal.SIGSTOP)
        try:
            return Client(channel, secret).sessions.RevokeSession(request, timeout=timeout).barrier
        finally:
            system.sidecar.signal(signal.SIGCONT)


def wait_until_revoked(system: System, session_id: str) -> None:
    deadline = time.monotonic() + 20
    while outcome(system.app, session_id) != "REVOKED":
        assert time.monotonic() < deadline


def test_a_barrier_that_takes_too_long_is_not_reached_but_the_session_is_revoked(patient: System) -> None:
    login = cached_session(patient)
    request = session_pb2.RevokeSessionRequest(
        handle=login.session.handle, wait=WAIT, wait_timeout=Duration(seconds=1)
    )
    barrier = direct(patient, request)
    assert (barrier.reached, barrier.applied, barrier.waiting) == (False, 0, 1)
    wait_until_revoked(patient, login.session_id)


def test_the_callers_deadline_leaves_time_for_the_answer(patient: System) -> None:
    request = session_pb2.RevokeSessionRequest(handle=cached_session(patient).session.handle, wait=WAIT)
    assert not direct(patient, request, timeout=2.0).reached


@pytest.mark.parametrize(
    ("fields", "violated"),
    [
        ({"wait_timeout": Duration(seconds=61)}, "wait_timeout"),
        ({"wait_timeout": Duration(seconds=-1)}, "wait_timeout"),
        ({"wait": 9}, "wait"),
    ],
)
def test_a_wait_that_cannot_be_is_refused_before_anything_is_revoked(
    system: System, fields: dict[str, object], violated: str
) -> None:
    login = cached_session(system)
    request = session_pb2.RevokeSessionRequest(handle=login.session.handle, **{"wait": WAIT, **fields})  # type: ignore[arg-type]
    with pytest.raises(grpc.RpcError) as refused:
        system.app.sessions.RevokeSession(request)
    assert reason(refused.value) == "INVALID_FIELD"
    assert violated in str(refused.value.details())
    assert outcome(system.app, login.session_id) == "ACTIVE"


def test_an_operator_sees_the_watchers_with_their_revision_and_lag(system: System, client: Client) -> None:
    login = cached_session(system)
    system.app.sessions.RevokeSession(session_pb2.RevokeSessionRequest(handle=login.session.handle, wait=WAIT))
    listed = client.admin.ListWatchers(admin_pb2.ListWatchersRequest())
    (replica,) = listed.replicas
    assert (replica.doubted, replica.watcher_count, replica.revision) == (False, 1, listed.revision)
    (watcher,) = replica.watchers
    bridges = {bridge.name: bridge.id for bridge in client.admin.ListBridges(admin_pb2.ListBridgesRequest()).bridges}
    assert watcher.bridge_id == bridges[BRIDGE]
    assert (watcher.applied_revision, watcher.lag, watcher.connected) == (listed.revision, 0, True)
    assert watcher.max_staleness.ToTimedelta().total_seconds() == STALENESS_SECONDS


def test_doctor_shows_replicas_and_watchers_with_revision_and_lag(system: System, client: Client) -> None:
    login = cached_session(system)
    system.app.sessions.RevokeSession(session_pb2.RevokeSessionRequest(handle=login.session.handle, wait=WAIT))
    listed = client.admin.ListWatchers(admin_pb2.ListWatchersRequest())  # makes the replica report itself now
    findings = json.loads(system.flowless.run_command("doctor", "--json"))
    shown = {finding["check"]: finding for finding in findings if finding["check"] in ("replica", "watcher")}
    assert shown["replica"]["finding"].endswith(f"at revision {listed.revision}, 1 watchers")
    assert f" at revision {listed.revision}, 0 behind, pinged " in shown["watcher"]["finding"]
    assert {finding["state"] for finding in shown.values()} == {"ok"}


def test_the_command_line_waits_too_and_says_by_its_exit_code_when_it_is_not_certain(patient: System) -> None:
    login = cached_session(patient)
    command = ("sessions", "revoke", login.session.handle, "--wait", "10", "--json")
    said = json.loads(patient.flowless.run_command(*command))
    assert outcome(patient.app, login.session_id) == "REVOKED"
    assert (said["barrier_reached"], said["barrier_applied"]) == (True, 1)
    other = cached_session(patient, "bea@example.org")
    patient.sidecar.signal(signal.SIGSTOP)
    try:
        with pytest.raises(ProcessError, match="ended with 3"):
            patient.flowless.run_command("sessions", "revoke-user", "bea@example.org", "--wait", "0.05")
    finally:
        patient.sidecar.signal(signal.SIGCONT)
    wait_until_revoked(patient, other.session_id)


def test_a_sidecar_that_asks_to_be_waited_for_longer_than_flowless_allows_gets_no_lease_and_says_why(
    run_dir: Path,
) -> None:
    with prepared_flowless(run_dir, environment={"FLOWLESS_WATCH_STALENESS_MAX_SECONDS": "5"}) as (flowless, secret):
        sidecar = SidecarProcess(
            directory=run_dir, upstream=flowless.address, secret=secret, max_staleness_seconds=LONG_SECONDS
        )
        with sidecar, grpc.insecure_channel(sidecar.address) as channel:
            deadline = time.monotonic() + 20
            while "watch_staleness_max_seconds" not in sidecar.log.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert not App(channel).status().lease_held


def test_a_restart_leaves_a_record_behind_that_is_soon_forgotten(system: System, client: Client) -> None:
    """The last here, since it restarts what the others share."""
    first = client.admin.ListWatchers(admin_pb2.ListWatchersRequest()).replicas[0].id
    port = system.flowless.address
    system.flowless.environment["FLOWLESS_LISTEN"] = port
    system.flowless.stop()
    system.flowless.start()
    deadline = time.monotonic() + 40
    while True:
        replicas = client.admin.ListWatchers(admin_pb2.ListWatchersRequest(), wait_for_ready=True).replicas
        if [replica.id for replica in replicas if replica.id == first] == []:
            break
        assert [replica.doubted for replica in replicas if replica.id == first] == [True]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    login = cached_session(system)
    request = session_pb2.RevokeSessionRequest(handle=login.session.handle, wait=WAIT)
    assert system.app.sessions.RevokeSession(request).barrier.reached
