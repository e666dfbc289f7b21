"""The guarantee at the socket: revocations, the lease, reconnects and a Flowless that misbehaves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.rpc import reason
from tests.support.sidecar import STALENESS_SECONDS, Running, new_id, new_secret, running_sidecar, until
from trust_core.errors import Reason, TrustError
from trust_core.grpc_edge import Context
from trustlayer.v1 import bridge_pb2, types_pb2, validator_pb2


async def _cached(app: Running) -> str:
    session_id = new_id()
    app.flowless.add_session(session_id)
    await app.validate(session_id)
    assert (await app.validate(session_id)).freshness.tier == types_pb2.TIER_LRU
    return session_id


def _applied(app: Running, revision: int) -> Callable[[], bool]:
    return lambda: app.sidecar.cache.applied_revision >= revision


async def test_a_revocation_reaches_the_socket(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = await _cached(app)
        await until(_applied(app, app.flowless.revoke_session(session_id)))
        assert (await app.validate(session_id)).denial.reason == types_pb2.DENIAL_REASON_REVOKED


async def test_a_users_row_drops_all_of_the_users_sessions_and_nobody_elses(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        theirs = [await _cached(app) for _ in range(3)]
        other = new_id()
        app.flowless.add_session(other, user_id="usr_2")
        await app.validate(other)
        await until(_applied(app, app.flowless.append(bridge_pb2.Revocation(user_id="usr_1"))))
        assert [(await app.validate(i)).freshness.tier for i in theirs] == [types_pb2.TIER_DATABASE] * 3
        assert (await app.validate(other)).freshness.tier == types_pb2.TIER_LRU


async def test_an_answer_that_a_revocation_outran_is_asked_again(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        app.flowless.validate_gate.clear()
        ask = asyncio.create_task(app.validate(session_id))
        await until(lambda: len(app.flowless.validate_requests) == 1)
        revision = app.flowless.revoke_session(session_id)
        await until(_applied(app, revision))
        app.flowless.validate_gate.set()
        assert (await ask).denial.reason == types_pb2.DENIAL_REASON_REVOKED
        assert [request.min_revision for request in app.flowless.validate_requests] == [0, revision]


async def test_nobody_joins_a_call_that_began_before_a_revocation(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        app.flowless.validate_gate.clear()
        before = asyncio.create_task(app.validate(session_id))
        await until(lambda: len(app.flowless.validate_requests) == 1)
        await until(_applied(app, app.flowless.append(bridge_pb2.Revocation(user_id="usr_9"))))
        after = asyncio.create_task(app.validate(session_id))
        await until(lambda: len(app.flowless.validate_requests) == 2)
        app.flowless.validate_gate.set()
        assert (await before).HasField("session")
        assert (await after).HasField("session")


async def test_outside_the_lease_every_question_goes_upstream(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = await _cached(app)
        app.flowless.delivers_rows = False  # and with them the pongs
        await app.lease_lost()
        assert (await app.validate(session_id)).freshness.tier == types_pb2.TIER_DATABASE
        app.flowless.revoke_session(session_id)
        assert (await app.validate(session_id)).denial.reason == types_pb2.DENIAL_REASON_REVOKED


async def test_without_lease_and_without_flowless_nothing_says_yes(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = await _cached(app)
        await app.flowless.stop()
        # Whoever asks while the lease lasts may hit the cache; who asks after it has run out may not.
        while app.lease_held():
            with contextlib.suppress(grpc.aio.AioRpcError):
                assert (await app.validate(session_id)).freshness.tier == types_pb2.TIER_LRU
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.validate(session_id)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(failed.value) == "UPSTREAM_UNAVAILABLE"
        assert not (await app.status()).lease_held


async def test_revocations_made_while_cut_off_are_replayed_before_the_cache_is_used_again(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        revoked, kept = await _cached(app), await _cached(app)
        await app.flowless.stop()
        await app.lease_lost()
        revision = app.flowless.revoke_session(revoked)
        await app.flowless.start()
        await app.leased()
        assert app.sidecar.cache.applied_revision == revision
        assert app.flowless.starts[-1].last_revision == 0
        assert (await app.validate(kept)).freshness.tier == types_pb2.TIER_LRU
        assert (await app.validate(revoked)).denial.reason == types_pb2.DENIAL_REASON_REVOKED


@pytest.mark.parametrize("change", ["another log", "compacted"])
async def test_a_log_that_cannot_be_replayed_empties_the_cache(run_dir: Path, change: str) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = await _cached(app)
        await app.flowless.stop()
        if change == "another log":
            app.flowless.log_id = "log-2"
        else:
            app.flowless.append(bridge_pb2.Revocation(user_id="usr_9"))
            app.flowless.compacted_through = 1
        await app.flowless.start()
        await until(lambda: app.sidecar.cache.generation == 2)
        await app.leased()
        assert (await app.status()).cached_sessions == 0
        assert (await app.validate(session_id)).freshness.tier == types_pb2.TIER_DATABASE


async def test_the_sidecar_starts_without_flowless_and_recovers_by_itself(run_dir: Path) -> None:
    async with running_sidecar(run_dir, start_flowless=False) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.validate(session_id)
        assert reason(failed.value) == "UPSTREAM_UNAVAILABLE"
        assert (await app.validate("rubbish")).denial.reason == types_pb2.DENIAL_REASON_MALFORMED
        await app.flowless.start()
        await app.leased()
        assert (await app.validate(session_id)).HasField("session")
        assert (await app.status()).watch_state == validator_pb2.WATCH_STATE_LIVE


async def test_a_deaf_flowless_is_left_for_another_stream(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        app.flowless.deaf = True
        await app.lease_lost()
        await until(lambda: len(app.flowless.starts) >= 2)
        app.flowless.deaf = False
        await app.leased()


async def test_a_go_away_opens_another_stream_and_keeps_lease_and_cache(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = await _cached(app)
        app.flowless.send(bridge_pb2.WatchRevocationsResponse(go_away=bridge_pb2.WatchGoAway()))
        await until(lambda: len(app.flowless.starts) == 2)
        assert app.flowless.starts[1].log_id == "log-1"
        assert app.lease_held()
        assert (await app.validate(session_id)).freshness.tier == types_pb2.TIER_LRU
        await until(lambda: app.flowless.watchers == 1)


@pytest.mark.parametrize(
    "lie",
    [
        bridge_pb2.WatchRevocationsResponse(pong=bridge_pb2.WatchPong(nonce=999_999, revision=0)),
        bridge_pb2.WatchRevocationsResponse(ready=bridge_pb2.WatchReady(log_id="log-1", revision=0)),
        bridge_pb2.WatchRevocationsResponse(
            revocations=bridge_pb2.RevocationBatch(revocations=[bridge_pb2.Revocation(revision=7)])
        ),
    ],
    ids=["a pong nobody asked for", "a second ready", "a gap"],
)
async def test_a_broken_protocol_costs_cache_and_lease_and_is_begun_anew(
    run_dir: Path, lie: bridge_pb2.WatchRevocationsResponse
) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = await _cached(app)
        app.flowless.send(lie)
        await until(lambda: len(app.flowless.starts) == 2)
        assert app.flowless.starts[1].log_id == ""
        await app.leased()
        assert (await app.validate(session_id)).freshness.tier == types_pb2.TIER_DATABASE


async def test_a_refused_credential_is_shown_and_mended_by_replacing_the_file(run_dir: Path) -> None:
    secret_file = run_dir / "secret"
    async with running_sidecar(run_dir, bridge_secret_file=str(secret_file)) as app:
        session_id = await _cached(app)
        new = new_secret()
        app.flowless.secrets = {new}
        app.flowless.cut_watchers(TrustError(Reason.BRIDGE_CREDENTIAL_REFUSED, "revoked"))
        await until(lambda: app.sidecar.watch.state.name == "REFUSED")
        await app.lease_lost()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.validate(session_id)
        assert reason(failed.value) == "UPSTREAM_REFUSED_BRIDGE"
        # On a busy machine an attempt may also end for want of time; the next one is refused again.
        async with asyncio.timeout(20):
            while (await app.status()).watch_state != validator_pb2.WATCH_STATE_REFUSED:
                await asyncio.sleep(0.01)
        secret_file.write_text(new + "\n")
        await app.leased()
        assert (await app.validate(session_id)).HasField("session")


async def test_a_caller_reads_its_own_writes_by_min_revision(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = await _cached(app)
        app.flowless.delivers_rows = False
        revision = app.flowless.revoke_session(session_id)
        assert app.lease_held()
        answer = await app.validate(session_id, min_revision=revision)
        assert answer.denial.reason == types_pb2.DENIAL_REASON_REVOKED
        assert answer.freshness.revision >= revision


async def test_what_is_not_flowless_at_the_address_is_never_believed(run_dir: Path) -> None:
    async def answer(_request: bytes, _context: Context) -> bytes:
        return b"\xff\xff"

    async def stream(_requests: object, _context: Context) -> AsyncIterator[bytes]:
        yield b"\xff\xff"

    async with running_sidecar(run_dir, start_flowless=False) as app:
        impostor = grpc.aio.server()
        handlers: dict[str, Any] = {
            "ValidateSession": grpc.unary_unary_rpc_method_handler(answer),
            "WatchRevocations": grpc.stream_stream_rpc_method_handler(stream),
        }
        service = grpc.method_handlers_generic_handler("trustlayer.v1.BridgeService", handlers)
        impostor.add_generic_rpc_handlers((service,))
        impostor.add_insecure_port(app.flowless.address)
        await impostor.start()
        await until(lambda: app.sidecar.cache.generation > 1)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.validate(new_id())
        assert reason(failed.value) == "UPSTREAM_UNAVAILABLE"
        await impostor.stop(None)
        await app.flowless.start()
        await app.leased()


async def test_status_bounds_how_long_the_last_revocation_took_without_another_machines_clock(run_dir: Path) -> None:
    async with running_sidecar(run_dir, start_flowless=False) as app:
        before = await app.status()
        for field in ("lease_age", "last_revocation_within", "watch_round_trip"):
            assert not before.HasField(field)
        await app.flowless.start()
        await app.leased()
        leased = await app.status()
        assert not leased.HasField("last_revocation_within")
        assert 0 < leased.watch_round_trip.ToNanoseconds() <= leased.lease_age.ToNanoseconds()
        assert leased.lease_age.ToNanoseconds() + leased.lease_remaining.ToNanoseconds() == STALENESS_SECONDS * 1e9
        await until(_applied(app, app.flowless.append(bridge_pb2.Revocation(user_id="usr_1"))))
        assert 0 < (await app.status()).last_revocation_within.ToNanoseconds() <= STALENESS_SECONDS * 1e9
