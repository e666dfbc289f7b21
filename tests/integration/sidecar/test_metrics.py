"""The sidecar's Prometheus metrics, over a real port."""

import asyncio
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest

from bridge_sidecar.config import ConfigError
from bridge_sidecar.revocation_watch import WatchState
from bridge_sidecar.routes import Rule
from tests.support.clock import AheadClock
from tests.support.http_client import exchange
from tests.support.sidecar import STALENESS_SECONDS, Running, new_id, running_sidecar, until
from trust_core.clock import NS_PER_SECOND
from trustlayer.v1 import bridge_pb2, types_pb2

ANYWHERE = "127.0.0.1:0"
P = "bridge_sidecar_"


async def _text(app: Running) -> str:
    assert app.sidecar.metrics is not None
    url = f"http://{app.sidecar.metrics.address}/metrics"

    def get() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(get)


async def _shown(app: Running) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in (await _text(app)).splitlines() if line[0] != "#")
    return {name.removeprefix(P): float(value) for name, _, value in lines}


async def test_metrics_show_the_lease_the_watch_the_cache_and_the_answers(run_dir: Path) -> None:
    clock = AheadClock()
    grants = (Rule(name="catalogue", serve_beyond_lease_ns=30 * NS_PER_SECOND),)
    async with running_sidecar(
        run_dir, clock=clock, metrics_listen=ANYWHERE, routes=grants, ping_interval_seconds=0.1
    ) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        for _ in range(3):
            await app.validate(session_id)
        await app.validate("rubbish")
        await until(lambda: app.sidecar.watch.state is WatchState.LIVE)
        before = await _shown(app)
        assert "last_revocation_within_seconds" not in before
        assert before["lease_held"] == 1
        assert before["lease_age_seconds"] + before["lease_remaining_seconds"] == pytest.approx(STALENESS_SECONDS)
        assert 0 < before["watch_round_trip_seconds"] < STALENESS_SECONDS
        assert (before["hits_total"], before["misses_total"], before["malformed_total"]) == (2, 1, 1)
        assert (before["upstream_calls_total"], before["cached_sessions"]) == (1, 1)
        assert before["cached_bytes"] > 1_000
        assert {name: value for name, value in before.items() if name.startswith("watch_state")} == {
            f'watch_state{{state="{state.name.lower()}"}}': float(state is WatchState.LIVE) for state in WatchState
        }

        revision = app.flowless.append(bridge_pb2.Revocation(user_id="usr_9"))
        await until(lambda: app.sidecar.cache.applied_revision == revision)
        revoked = await _shown(app)
        assert revoked["applied_revision"] == revision
        assert 0 < revoked["last_revocation_within_seconds"] <= STALENESS_SECONDS

        await app.flowless.stop()
        clock.advance(STALENESS_SECONDS)
        await app.validate(session_id, route="catalogue", mode=types_pb2.VALIDATION_MODE_STANDARD)
        away = await _shown(app)
        assert (away["lease_held"], away["lease_remaining_seconds"], away["answers_beyond_lease_total"]) == (0, 0, 1)
        assert away["lease_age_seconds"] >= STALENESS_SECONDS
        assert away["unavailable_total"] == 0
        assert away['watch_state{state="live"}'] == 0


async def test_what_is_not_known_has_no_sample(run_dir: Path) -> None:
    async with running_sidecar(run_dir, start_flowless=False, metrics_listen=ANYWHERE) as app:
        shown = await _shown(app)
        assert shown["lease_held"] == 0
        unknown = {"lease_age_seconds", "watch_round_trip_seconds", "last_revocation_within_seconds"}
        assert not unknown & set(shown)


async def test_metrics_name_nobody_and_nothing(run_dir: Path) -> None:
    grants = (Rule(name="catalogue", serve_beyond_lease_ns=30 * NS_PER_SECOND),)
    async with running_sidecar(run_dir, metrics_listen=ANYWHERE, routes=grants) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        answer = await app.validate(session_id, route="catalogue")
        text = await _text(app)
        assert answer.session.user.id == "usr_1"
        for secret in (session_id, "usr_1", answer.session.handle, "catalogue", str(run_dir)):
            assert secret not in text
        names = {"state", "rpc", "code", "reason", "tier", "le", "outcome", "version"}
        assert set(re.findall(r"(\w+)=\"", text)) <= names


async def test_answers_are_timed_by_who_knew_and_denials_counted_by_their_reason(run_dir: Path) -> None:
    rules = (Rule(name="catalogue"),)
    async with running_sidecar(run_dir, metrics_listen=ANYWHERE, routes=rules) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        for _ in range(3):
            await app.validate(session_id)
        await app.validate("rubbish")
        await app.validate(new_id())
        await app.validate(session_id, route="nowhere")
        shown = await _shown(app)
        tiers = {t: shown[f'validation_seconds_count{{tier="{t}"}}'] for t in ("lru", "database", "redis", "none")}
        assert tiers == {"lru": 2, "database": 2, "redis": 0, "none": 1}
        assert shown['validation_seconds_bucket{le="+Inf",tier="lru"}'] == 2
        assert 0 < shown['validation_seconds_sum{tier="lru"}'] < 2
        denials = {name: value for name, value in shown.items() if name.startswith("denials_total") and value}
        assert denials == {
            f'denials_total{{reason="{reason}"}}': 1 for reason in ("MALFORMED", "UNKNOWN", "ROUTE_NOT_COVERED")
        }
        assert shown['calls_total{code="OK",rpc="ValidatorService/Validate"}'] == 6

        await app.flowless.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await app.validate(new_id())
        shown = await _shown(app)
        assert shown['validation_seconds_count{tier="unanswered"}'] == 1
        assert shown['calls_total{code="UNAVAILABLE",rpc="ValidatorService/Validate"}'] == 1
        assert shown['call_errors_total{reason="UPSTREAM_UNAVAILABLE"}'] == 1


async def test_the_lag_is_what_an_answer_spoke_of_and_the_watch_has_not_brought(run_dir: Path) -> None:
    async with running_sidecar(run_dir, metrics_listen=ANYWHERE) as app:
        assert (await _shown(app))["revision_lag"] == 0
        session_id = new_id()
        app.flowless.add_session(session_id)
        app.flowless.delivers_rows = False
        row = bridge_pb2.Revocation(user_id="usr_9")
        revision = app.flowless.append(row)
        await app.validate(session_id)
        assert (await _shown(app))["revision_lag"] == 1
        batch = bridge_pb2.RevocationBatch(revocations=[row])
        app.flowless.send(bridge_pb2.WatchRevocationsResponse(revocations=batch))
        await until(lambda: app.sidecar.cache.applied_revision == revision)
        assert (await _shown(app))["revision_lag"] == 0


async def test_metrics_are_off_by_default_and_end_with_the_sidecar(run_dir: Path) -> None:
    async with running_sidecar(run_dir, start_flowless=False) as app:
        assert app.sidecar.metrics is None
    (run_dir / "with").mkdir()
    async with running_sidecar(run_dir / "with", start_flowless=False, metrics_listen=ANYWHERE) as app:
        await _text(app)
    with pytest.raises(urllib.error.URLError):
        await _text(app)


async def test_an_address_that_cannot_be_had_is_a_problem_of_the_settings(run_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match="metrics_listen: cannot listen there"):
            async with running_sidecar(run_dir, start_flowless=False, metrics_listen=address):
                pass


async def test_metrics_show_what_proxies_were_answered_where_they_may_ask(run_dir: Path) -> None:
    listen = f"unix:{run_dir}/f/f.sock"
    async with running_sidecar(run_dir, metrics_listen=ANYWHERE, forward_auth_listen=listen) as app:
        answer = await asyncio.to_thread(exchange, f"{run_dir}/f/f.sock", "GET", "/forward-auth")
        assert answer.status == 403
        headers = (("x-forwarded-method", "GET"), ("x-forwarded-uri", "/nowhere"))
        await asyncio.to_thread(exchange, f"{run_dir}/f/f.sock", "GET", "/forward-auth", headers)
        shown = await _shown(app)
        decisions = {name: value for name, value in shown.items() if name.startswith("gate_decisions_total")}
        assert decisions == {
            f'gate_decisions_total{{decision="{name}"}}': float(name == "forbidden")
            for name in ("passed", "passed_as_nobody", "unauthenticated", "forbidden", "unavailable")
        }
    async with running_sidecar(run_dir, metrics_listen=ANYWHERE) as app:
        assert not any(name.startswith("gate_") for name in await _shown(app))
