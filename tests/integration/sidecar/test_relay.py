"""What passes from an app to Flowless through the socket, and what does not."""

import asyncio
from pathlib import Path

import grpc
import pytest

from bridge_sidecar.relay import UnknownMethodError, resolve
from tests.support.rpc import reason, status_of
from tests.support.sidecar import Running, new_id, running_sidecar, until
from trust_core.errors import Reason, TrustError, Violation, invalid
from trust_core.grpc_edge import REVISION_KEY
from trustlayer.v1 import admin_pb2, identity_pb2, session_pb2, trust_token_pb2, types_pb2
from trustlayer.v1.admin_pb2_grpc import AdminServiceStub
from trustlayer.v1.identity_pb2_grpc import IdentityServiceStub
from trustlayer.v1.trust_token_pb2_grpc import TrustTokenServiceStub


async def test_a_call_passes_with_the_credential_and_none_of_the_apps_metadata_but_the_request_id(
    run_dir: Path,
) -> None:
    async with running_sidecar(run_dir) as app:
        login = session_pb2.LoginRequest(login=new_id())
        metadata = (("x-request-id", "req-1"), ("authorization", "Bearer mine"), ("x-other", "1"))
        answer = await app.sessions.Login(login, timeout=7, metadata=metadata)
        assert answer.session_id == login.login
        (seen,) = app.flowless.relayed_metadata
        assert seen["x-request-id"] == "req-1"
        assert seen["authorization"].startswith("Bearer brdg_")
        assert "x-other" not in seen
        (seconds,) = app.flowless.relayed_seconds
        assert seconds is not None
        assert seconds < 7.5


async def test_a_call_without_deadline_gets_the_configured_one(run_dir: Path) -> None:
    async with running_sidecar(run_dir, relay_default_timeout_seconds=3.0) as app:
        await app.sessions.Login(session_pb2.LoginRequest(login=new_id()))
        (seconds,) = app.flowless.relayed_seconds
        assert seconds is not None
        assert seconds < 3.5


async def test_cancelling_a_call_cancels_it_upstream(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        app.flowless.relay_gate.clear()
        call = asyncio.ensure_future(app.sessions.Login(session_pb2.LoginRequest(login=new_id())))
        await until(lambda: len(app.flowless.relayed_metadata) == 1)
        call.cancel()
        await asyncio.wait_for(app.flowless.relay_cancelled.wait(), 10)
        await asyncio.gather(call, return_exceptions=True)


async def test_errors_pass_back_unchanged_with_their_details(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        app.flowless.relay_error = invalid(Violation("login", "must be good"))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.sessions.Login(session_pb2.LoginRequest(), metadata=(("x-request-id", "req-2"),))
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert failed.value.details() == "login: must be good"
        assert reason(failed.value) == "INVALID_FIELD"
        assert b"req-2" in status_of(failed.value).SerializeToString()
        app.flowless.relay_error = TrustError(Reason.LOGIN_REFUSED, "wrong user or password")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.sessions.Login(session_pb2.LoginRequest())
        assert reason(failed.value) == "LOGIN_REFUSED"


@pytest.mark.parametrize("sent", [Reason.BRIDGE_CREDENTIAL_REFUSED, Reason.SCOPE_MISSING])
async def test_trouble_with_the_bridge_itself_is_not_shown_as_the_apps(run_dir: Path, sent: Reason) -> None:
    async with running_sidecar(run_dir) as app:
        app.flowless.relay_error = TrustError(sent, "no")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.sessions.Login(session_pb2.LoginRequest())
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(failed.value) == "UPSTREAM_REFUSED_BRIDGE"


async def test_what_the_configuration_does_not_list_is_not_relayed(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await IdentityServiceStub(app.channel).DeleteUser(identity_pb2.DeleteUserRequest(user_id="usr_1"))
        assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert reason(failed.value) == "METHOD_NOT_RELAYED"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await AdminServiceStub(app.channel).ListBridges(admin_pb2.ListBridgesRequest())
        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await TrustTokenServiceStub(app.channel).GetPublicKeys(trust_token_pb2.GetPublicKeysRequest())
        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED  # relayed, and not built upstream
        assert app.flowless.relayed_metadata == []


@pytest.mark.parametrize(
    ("sent", "code", "named"),
    [
        (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
        (grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
        (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
        (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    ],
)
async def test_text_of_what_stands_before_flowless_never_reaches_the_app(
    run_dir: Path, sent: grpc.StatusCode, code: grpc.StatusCode, named: str
) -> None:
    async with running_sidecar(run_dir) as app:
        app.flowless.relay_abort = (sent, "upstream 10.0.0.5:7600 said: SELECT hunter2")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.sessions.Login(session_pb2.LoginRequest())
        assert (failed.value.code(), reason(failed.value)) == (code, named)
        assert "hunter2" not in repr(failed.value)
        assert "10.0.0.5" not in repr(failed.value)


async def test_a_call_that_a_replica_never_took_is_made_again_whatever_it_does(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        app.flowless.relay_aborts = [(grpc.StatusCode.CANCELLED, "")] * 3
        await app.sessions.Login(session_pb2.LoginRequest(login=new_id()))
        assert len(app.flowless.relayed_metadata) == 4
        app.flowless.relay_aborts = [(grpc.StatusCode.CANCELLED, "")] * 5
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.sessions.Login(session_pb2.LoginRequest(login=new_id()))
        assert reason(failed.value) == "UPSTREAM_UNAVAILABLE"
        assert len(app.flowless.relayed_metadata) == 8


async def test_a_call_that_is_cut_after_a_while_may_have_been_taken_and_is_made_again_only_if_it_may_be(
    run_dir: Path,
) -> None:
    async def cut_later(app: Running) -> None:
        await asyncio.sleep(1.2)
        app.flowless.relay_gate.set()

    async with running_sidecar(run_dir) as app:
        for made in (1, 3):
            app.flowless.relay_gate.clear()
            app.flowless.relay_aborts = [(grpc.StatusCode.CANCELLED, "")]
            cutting = asyncio.create_task(cut_later(app))
            if made == 1:
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await app.sessions.Login(session_pb2.LoginRequest(login=new_id()), timeout=20)
                assert reason(failed.value) == "UPSTREAM_UNAVAILABLE"
            else:
                await app.sessions.Logout(session_pb2.LogoutRequest(session_id=new_id()), timeout=20)
            await cutting
            assert len(app.flowless.relayed_metadata) == made


async def test_a_call_whose_replica_is_gone_is_made_again_only_if_it_may_be(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        app.flowless.relay_aborts = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")]
        with pytest.raises(grpc.aio.AioRpcError):
            await app.sessions.Login(session_pb2.LoginRequest(login=new_id()))
        assert len(app.flowless.relayed_metadata) == 1
        app.flowless.relay_aborts = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")]
        await app.sessions.Logout(session_pb2.LogoutRequest(session_id=new_id()))
        assert len(app.flowless.relayed_metadata) == 3


async def test_an_unreachable_flowless_is_named_in_our_words(run_dir: Path) -> None:
    async with running_sidecar(run_dir, start_flowless=False) as app:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.sessions.Login(session_pb2.LoginRequest())
        assert reason(failed.value) == "UPSTREAM_UNAVAILABLE"
        assert failed.value.details() == "Flowless cannot be reached or does not answer as Flowless does"


async def test_relayed_calls_are_bounded(run_dir: Path) -> None:
    async with running_sidecar(run_dir, max_relayed_calls=1) as app:
        app.flowless.relay_gate.clear()
        first = asyncio.ensure_future(app.sessions.Login(session_pb2.LoginRequest(login=new_id())))
        await until(lambda: len(app.flowless.relayed_metadata) == 1)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await app.sessions.Login(session_pb2.LoginRequest(login=new_id()))
        assert reason(refused.value) == "TOO_MANY_CALLS"
        app.flowless.relay_gate.set()
        await first


async def test_a_login_makes_the_sidecar_forget_that_the_session_was_unknown(run_dir: Path) -> None:
    async with running_sidecar(run_dir, negative_ttl_seconds=60.0) as app:
        session_id = new_id()
        assert (await app.validate(session_id)).denial.reason == types_pb2.DENIAL_REASON_UNKNOWN
        await app.sessions.Login(session_pb2.LoginRequest(login=session_id))
        assert (await app.validate(session_id)).HasField("session")


async def test_an_app_reads_its_own_writes_before_the_watch_brings_them(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id, other = new_id(), new_id()
        app.flowless.add_session(session_id)
        app.flowless.add_session(other)
        await app.validate(session_id)
        await app.validate(other)
        app.flowless.delivers_rows = False
        call = app.sessions.Logout(session_pb2.LogoutRequest(session_id=session_id))
        assert (await call).revision == 1
        assert dict(await call.trailing_metadata())[REVISION_KEY] == "1"
        assert app.lease_held()
        assert (await app.validate(session_id)).denial.reason == types_pb2.DENIAL_REASON_REVOKED
        assert (await app.validate(other)).freshness.tier == types_pb2.TIER_DATABASE


def test_configured_names_are_resolved_and_wrong_ones_are_all_named() -> None:
    assert resolve(["SessionService/Login"]) == {"/trustlayer.v1.SessionService/Login"}
    assert "/trustlayer.v1.SessionService/Logout" in resolve(["SessionService/*"])
    with pytest.raises(UnknownMethodError, match="BridgeService/ValidateSession, SessionService/Fly"):
        resolve(["BridgeService/ValidateSession", "SessionService/Login", "SessionService/Fly"])
