"""The main job at the socket: hits, misses, denials, coalescing, bounds."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.rpc import reason
from tests.support.sidecar import CONTEXT, new_id, running_sidecar, until
from trust_core.errors import Reason, TrustError
from trust_core.modes import DenialReason
from trustlayer.v1 import types_pb2


async def test_the_first_answer_comes_from_the_database_and_the_next_from_memory(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        first, second = await app.validate(session_id), await app.validate(session_id)
        assert first.freshness.tier == types_pb2.TIER_DATABASE
        assert second.freshness.tier == types_pb2.TIER_LRU
        assert first.session == second.session
        assert second.session.user.id == "usr_1"
        assert second.freshness.age.ToNanoseconds() > 0
        assert len(app.flowless.validate_requests) == 1
        status = await app.status()
        assert (status.hits, status.misses, status.upstream_calls, status.cached_sessions) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    "session_id", ["", "x", "sess_", "sess_" + "a" * 49, "s" * 4_000, "sess_\0", "тест", "brdg_x"], ids=repr
)
async def test_what_is_not_a_session_id_is_denied_without_asking_anybody(run_dir: Path, session_id: str) -> None:
    async with running_sidecar(run_dir) as app:
        answer = await app.validate(session_id)
        assert answer.denial.reason == types_pb2.DENIAL_REASON_MALFORMED
        assert answer.freshness.tier == types_pb2.TIER_NONE
        assert app.flowless.validate_requests == []
        assert (await app.status()).malformed == 1


async def test_an_unknown_id_is_asked_once_and_then_remembered(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = new_id()
        answers = [await app.validate(session_id) for _ in range(3)]
        assert {answer.denial.reason for answer in answers} == {types_pb2.DENIAL_REASON_UNKNOWN}
        assert answers[0].denial.message
        assert len(app.flowless.validate_requests) == 1


async def test_each_request_is_judged_by_its_own_context_on_hits_and_on_misses(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        elsewhere = types_pb2.RequestContext(client_ip="198.51.100.1")
        on_miss = await app.validate(session_id, context=elsewhere)
        on_hit = await app.validate(session_id, context=elsewhere)
        assert on_miss.denial.reason == on_hit.denial.reason == types_pb2.DENIAL_REASON_IP_MISMATCH
        assert on_hit.freshness.tier == types_pb2.TIER_LRU
        strict = {"mode": types_pb2.VALIDATION_MODE_STRICT}
        assert (await app.validate(session_id, **strict)).HasField("session")
        no_agent = types_pb2.RequestContext(client_ip=CONTEXT.client_ip, device_fingerprint="device")
        missing = await app.validate(session_id, context=no_agent, **strict)
        assert missing.denial.reason == types_pb2.DENIAL_REASON_CONTEXT_MISSING
        assert (await app.validate(session_id, context=no_agent)).HasField("session")


async def test_equal_misses_share_one_call(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        app.flowless.validate_gate.clear()
        asks = [asyncio.create_task(app.validate(session_id)) for _ in range(20)]
        await until(lambda: app.sidecar.validator.counters.misses == 20)
        app.flowless.validate_gate.set()
        answers = await asyncio.gather(*asks)
        assert all(answer.HasField("session") for answer in answers)
        assert len(app.flowless.validate_requests) == 1


async def test_a_shared_call_outlives_the_caller_who_began_it(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        app.flowless.validate_gate.clear()
        first = asyncio.create_task(app.validate(session_id))
        await until(lambda: len(app.flowless.validate_requests) == 1)
        second = asyncio.create_task(app.validate(session_id))
        await until(lambda: app.sidecar.validator.counters.misses == 2)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        app.flowless.validate_gate.set()
        assert (await second).HasField("session")
        assert len(app.flowless.validate_requests) == 1


async def test_a_hit_does_not_wait_while_every_slot_for_misses_is_taken(run_dir: Path) -> None:
    async with running_sidecar(run_dir, max_concurrent_misses=2, max_waiting_misses=3) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        await app.validate(session_id)
        app.flowless.validate_gate.clear()
        asks = [asyncio.create_task(app.validate(new_id())) for _ in range(5)]
        await until(lambda: app.sidecar.validator.counters.misses == 6)
        assert (await app.validate(session_id)).freshness.tier == types_pb2.TIER_LRU
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await app.validate(new_id())
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(refused.value) == "TOO_MANY_MISSES"
        assert len(app.flowless.validate_requests) == 3  # two of the five, and the first
        app.flowless.validate_gate.set()
        await asyncio.gather(*asks)


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (Reason.STORAGE_UNAVAILABLE, "STORAGE_UNAVAILABLE"),
        (Reason.STORAGE_FULL, "STORAGE_FULL"),
        (Reason.REVISION_NOT_REACHED, "REVISION_NOT_REACHED"),
        (Reason.BRIDGE_CREDENTIAL_REFUSED, "UPSTREAM_REFUSED_BRIDGE"),
        (Reason.SCOPE_MISSING, "UPSTREAM_REFUSED_BRIDGE"),
        (Reason.INTERNAL, "UPSTREAM_UNAVAILABLE"),
        (Reason.DRAINING, "UPSTREAM_UNAVAILABLE"),
        (Reason.NOT_IMPLEMENTED, "UPSTREAM_UNAVAILABLE"),
    ],
)
async def test_what_keeps_flowless_from_answering_is_unavailable_and_never_a_denial(
    run_dir: Path, sent: Reason, received: str
) -> None:
    async with running_sidecar(run_dir) as app:
        app.flowless.validate_error = TrustError(sent, "words of the server that stay there")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.validate(new_id())
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(failed.value) == received
        assert "words of the server" not in str(failed.value.details())
        assert (await app.status()).unavailable == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_call_that_a_stopping_replica_drops_is_asked_again_and_only_a_few_times(
    run_dir: Path, code: grpc.StatusCode
) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        app.flowless.validate_aborts = [(code, "going"), (code, "going"), (code, "gone")]
        assert (await app.validate(session_id)).HasField("session")
        assert len(app.flowless.validate_requests) == 4
        app.flowless.validate_aborts = [(code, "gone")] * 5
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.validate(new_id())
        assert reason(failed.value) == "UPSTREAM_UNAVAILABLE"
        assert len(app.flowless.validate_requests) == 8


async def test_a_call_that_failed_for_another_reason_is_not_asked_again(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        app.flowless.validate_aborts = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.validate(new_id())
        assert reason(failed.value) == "UPSTREAM_UNAVAILABLE"
        assert len(app.flowless.validate_requests) == 1


async def test_a_slow_flowless_is_unavailable_after_the_upstream_timeout(run_dir: Path) -> None:
    async with running_sidecar(run_dir, upstream_timeout_seconds=0.1) as app:
        app.flowless.validate_gate.clear()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.validate(new_id())
        assert reason(failed.value) == "UPSTREAM_UNAVAILABLE"


async def test_an_answer_from_before_the_revision_asked_for_is_not_believed(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        app.flowless.lies_about_revision = 1
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.validate(session_id, min_revision=2)
        assert reason(failed.value) == "REVISION_NOT_REACHED"


async def test_a_session_without_an_end_is_not_believed(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        held = app.flowless.sessions[session_id]
        assert not isinstance(held, DenialReason)
        held.ClearField("absolute_remaining")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.validate(session_id)
        assert reason(failed.value) == "UPSTREAM_UNAVAILABLE"


@pytest.mark.parametrize(
    ("fields", "violated"),
    [
        ({"mode": 77}, "mode"),
        ({"min_revision": -1}, "min_revision"),
        ({"context": types_pb2.RequestContext(client_ip="1" * 46)}, "context.client_ip"),
        ({"context": types_pb2.RequestContext(device_fingerprint="d" * 513)}, "context.device_fingerprint"),
        ({"context": types_pb2.RequestContext(user_agent="ü" * 513)}, "context.user_agent"),
        ({"route": "ü" * 65}, "route"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_field_that_cannot_be_accepted_is_named(
    run_dir: Path, fields: dict[str, object], violated: str
) -> None:
    async with running_sidecar(run_dir, start_flowless=False) as app:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.validate(new_id(), **fields)
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason(failed.value) == "INVALID_FIELD"
        assert violated in str(failed.value.details())


async def test_bytes_that_are_not_utf8_are_a_malformed_message(run_dir: Path) -> None:
    async with running_sidecar(run_dir, start_flowless=False) as app:
        call: Any = app.channel.unary_unary("/trustlayer.v1.ValidatorService/Validate")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(b"\x0a\x02\xff\xfe")
        assert reason(failed.value) == "MALFORMED_MESSAGE"


async def test_idle_expiry_slides_for_a_session_that_is_used(run_dir: Path) -> None:
    async with running_sidecar(run_dir, activity_interval_seconds=0.1) as app:
        session_id = new_id()
        app.flowless.add_session(session_id, idle_seconds=0.5)
        await app.validate(session_id)
        await until(lambda: len(app.flowless.activities) == 1)
        await asyncio.sleep(0.6)  # past the idle deadline of the fill
        assert (await app.validate(session_id)).freshness.tier == types_pb2.TIER_LRU


async def test_a_flowless_that_takes_no_reports_changes_nothing_else(run_dir: Path) -> None:
    async with running_sidecar(run_dir, activity_interval_seconds=0.1) as app:
        app.flowless.activity_error = TrustError(Reason.NOT_IMPLEMENTED, "not built")
        session_id = new_id()
        app.flowless.add_session(session_id)
        await app.validate(session_id)
        await until(lambda: app.sidecar.activity.failed_reports > 0 and app.sidecar.activity.pending == 0)
        assert (await app.validate(session_id)).freshness.tier == types_pb2.TIER_LRU
