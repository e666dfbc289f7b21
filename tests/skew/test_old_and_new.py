"""This version and the one before it, as real processes, in every pairing that an upgrade or a rollback makes."""

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from tests.support.load import log_in_and_revoke
from tests.support.previous import previous_code
from tests.support.rpc import reason
from tests.support.system import BRIDGE, BROWSER, App
from tools.processes import TESTING, FlowlessProcess, ProcessError, SidecarProcess
from trust_core.identifiers import new_session_id
from trustlayer.v1 import session_pb2, types_pb2

pytestmark = pytest.mark.long

EMAIL = "ada@example.org"
THIS: Mapping[str, str] = {}


def flowless_of(directory: Path, code: Mapping[str, str], name: str) -> FlowlessProcess:
    return FlowlessProcess(directory=directory, name=name, environment={**TESTING, **code})


def sidecar_of(directory: Path, code: Mapping[str, str], upstream: str, secret: str) -> SidecarProcess:
    return SidecarProcess(directory=directory, upstream=upstream, secret=secret, environment=code)


def the_main_job(app: App, email: str) -> None:
    """All that an app needs, through whatever versions there are."""
    user = app.register(email, roles=("engineer",))
    login = app.log_in(email)
    first, second = (app.validate(login.session_id) for _ in range(2))
    assert first.session.user.id == second.session.user.id == user.id
    assert list(second.session.user.roles) == ["engineer"]
    assert second.freshness.tier == types_pb2.TIER_LRU
    unknown = app.validate(new_session_id(os.urandom))
    assert unknown.denial.reason == types_pb2.DENIAL_REASON_UNKNOWN
    assert [s.handle for s in app.sessions.ListSessions(session_pb2.ListSessionsRequest(user_id=user.id)).sessions]
    request = session_pb2.RevokeSessionRequest(handle=login.session.handle, wait=session_pb2.REVOKE_WAIT_ALL_SIDECARS)
    assert app.sessions.RevokeSession(request, timeout=20).barrier.reached
    assert app.validate(login.session_id).denial.reason == types_pb2.DENIAL_REASON_REVOKED
    log_in_and_revoke(app, email)
    with pytest.raises(grpc.RpcError) as wrong:
        app.sessions.Login(session_pb2.LoginRequest(login=email, password="not this one", context=BROWSER))
    assert reason(wrong.value) == "LOGIN_REFUSED"
    assert app.status().lease_held


@pytest.mark.parametrize("older", ["sidecar", "flowless"])
def test_a_sidecar_and_a_flowless_of_two_versions_do_the_main_job(run_dir: Path, older: str) -> None:
    before = previous_code()
    flowless = flowless_of(run_dir, before if older == "flowless" else THIS, "flowless")
    with flowless:
        secret = flowless.create_bridge(BRIDGE).secret
        sidecar = sidecar_of(run_dir, before if older == "sidecar" else THIS, flowless.address, secret)
        with sidecar, grpc.insecure_channel(sidecar.address) as channel:
            app = App(channel)
            app.wait_for_lease()
            the_main_job(app, EMAIL)
        for log in (flowless.log, sidecar.log):
            assert "Traceback" not in log.read_text()
            assert "unexpectedly" not in log.read_text()


def test_the_version_before_serves_what_this_one_left_and_this_one_what_that_left(run_dir: Path) -> None:
    before, now = (flowless_of(run_dir, code, name) for code, name in ((previous_code(), "old"), (THIS, "new")))
    now.migrate()
    secret = now.create_bridge(BRIDGE).secret
    session_ids: list[str] = []
    for number, flowless in enumerate((now, before, now)):
        flowless.migrate()  # as every install, upgrade and rollback does; the older one has nothing to do
        flowless.start()
        try:
            sidecar = sidecar_of(run_dir, THIS, flowless.address, secret)
            with sidecar, grpc.insecure_channel(sidecar.address) as channel:
                app = App(channel)
                app.wait_for_lease()
                for session_id in session_ids:
                    assert app.validate(session_id).HasField("session")
                the_main_job(app, f"user{number}@example.org")
                session_ids.append(app.log_in(f"user{number}@example.org").session_id)
        finally:
            assert flowless.stop() == 0


def test_a_schema_that_says_nothing_of_this_version_is_not_served_on(run_dir: Path) -> None:
    flowless = flowless_of(run_dir, THIS, "flowless")
    flowless.migrate()
    with closing(sqlite3.connect(run_dir / "flowless.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_9998'")
    with pytest.raises(ProcessError, match="newer than this Flowless"):
        flowless.start()
    with pytest.raises(ProcessError, match="newer than this Flowless"):
        flowless.migrate()
