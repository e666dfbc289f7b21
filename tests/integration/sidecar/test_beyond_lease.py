"""What an operator may allow beyond the lease, at the socket: which routes, for how long, and what stays refused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from bridge_sidecar.revocation_watch import WatchState
from bridge_sidecar.routes import Rule
from tests.support.clock import AheadClock
from tests.support.rpc import reason
from tests.support.sidecar import STALENESS_SECONDS, Running, new_id, running_sidecar, until
from trust_core.clock import NS_PER_SECOND
from trustlayer.v1 import session_pb2, types_pb2

STANDARD = {"mode": types_pb2.VALIDATION_MODE_STANDARD}
CATALOGUE = {**STANDARD, "route": "catalogue"}


class _Outages(Running):
    """A running sidecar whose clock the test advances."""

    clock: AheadClock

    async def cached(self) -> str:
        """Make a session and have it cached."""
        session_id = new_id()
        self.flowless.add_session(session_id)
        await self.validate(session_id)
        return session_id

    async def outage(self, *, seconds: float = STALENESS_SECONDS) -> None:
        """Stop Flowless, and let time pass: with the default, until just after the lease ran out."""
        await self.flowless.stop()
        self.clock.advance(seconds)

    async def refused(self, session_id: str, **fields: Any) -> str:
        """Ask; return the reason for which the answer cannot be known."""
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.validate(session_id, **fields)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        return reason(failed.value)


@asynccontextmanager
async def _granted(directory: Path) -> AsyncIterator[_Outages]:
    clock = AheadClock()
    grants = (
        Rule(name="catalogue", serve_beyond_lease_ns=30 * NS_PER_SECOND),
        Rule(name="search", serve_beyond_lease_ns=10 * NS_PER_SECOND),
    )
    async with running_sidecar(directory, clock=clock, routes=grants) as app:
        yield _Outages(sidecar=app.sidecar, flowless=app.flowless, channel=app.channel, clock=clock)


async def test_a_granted_route_outlives_flowless_for_its_time_and_nothing_else_does(run_dir: Path) -> None:
    async with _granted(run_dir) as app:
        session_id = await app.cached()
        assert not (await app.validate(session_id, **CATALOGUE)).freshness.HasField("beyond_lease")
        await app.outage()

        answer = await app.validate(session_id, **CATALOGUE)
        assert answer.session.user.id == "usr_1"
        assert answer.freshness.tier == types_pb2.TIER_LRU
        assert 0 < answer.freshness.beyond_lease.ToTimedelta().total_seconds() < 20
        by_default_mode = await app.validate(session_id, route="catalogue")
        assert by_default_mode.freshness.HasField("beyond_lease")
        assert await app.refused(session_id, **STANDARD) == "UPSTREAM_UNAVAILABLE"
        uncovered = await app.validate(session_id, **STANDARD, route="checkout")
        assert uncovered.denial.reason == types_pb2.DENIAL_REASON_ROUTE_NOT_COVERED
        strict = {"mode": types_pb2.VALIDATION_MODE_STRICT, "route": "catalogue"}
        assert await app.refused(session_id, **strict) == "UPSTREAM_UNAVAILABLE"
        assert await app.refused(new_id(), **CATALOGUE) == "UPSTREAM_UNAVAILABLE"
        status = await app.status()
        assert (status.answers_beyond_lease, status.unavailable) == (2, 3)
        assert not status.lease_held

        app.clock.advance(30)
        assert await app.refused(session_id, **CATALOGUE) == "UPSTREAM_UNAVAILABLE"
        await app.flowless.start()
        await app.leased()
        assert not (await app.validate(session_id, **CATALOGUE)).freshness.HasField("beyond_lease")


async def test_a_revocation_that_was_applied_before_the_outage_is_refused(run_dir: Path) -> None:
    async with _granted(run_dir) as app:
        revoked, kept = await app.cached(), await app.cached()
        revision = app.flowless.revoke_session(revoked)
        await until(lambda: app.sidecar.cache.applied_revision == revision)
        await app.outage()
        assert await app.refused(revoked, **CATALOGUE) == "UPSTREAM_UNAVAILABLE"
        assert (await app.validate(kept, **CATALOGUE)).HasField("session")


async def test_a_logout_through_this_sidecar_whose_row_never_came_is_refused(run_dir: Path) -> None:
    async with _granted(run_dir) as app:
        session_id = await app.cached()
        app.flowless.delivers_rows = False
        await app.sessions.Logout(session_pb2.LogoutRequest(session_id=session_id), timeout=20)
        assert app.sidecar.cache.applied_revision == 0
        await app.outage()
        assert await app.refused(session_id, **CATALOGUE) == "UPSTREAM_UNAVAILABLE"


async def test_a_bridge_that_was_revoked_before_the_outage_is_served_nothing_beyond_the_lease(run_dir: Path) -> None:
    async with _granted(run_dir) as app:
        session_id = await app.cached()
        app.flowless.secrets.clear()
        app.flowless.cut_watchers()
        await until(lambda: app.sidecar.watch.state is WatchState.REFUSED)
        await app.outage()
        assert await app.refused(session_id, **CATALOGUE) == "UPSTREAM_UNAVAILABLE"


async def test_a_flowless_that_refuses_the_bridge_is_no_reason_to_serve(run_dir: Path) -> None:
    async with _granted(run_dir) as app:
        session_id = await app.cached()
        app.flowless.delivers_rows = False  # and with them the pongs: the streams stay, the lease does not
        app.flowless.secrets.clear()
        app.clock.advance(STALENESS_SECONDS)
        assert await app.refused(session_id, **CATALOGUE) == "UPSTREAM_REFUSED_BRIDGE"


async def test_flowless_learns_how_long_an_answer_may_rest_on_a_ping(run_dir: Path) -> None:
    async with _granted(run_dir) as app:
        assert app.flowless.starts[0].max_staleness.ToTimedelta().total_seconds() == STALENESS_SECONDS + 30
        assert (await app.status()).max_staleness.ToTimedelta().total_seconds() == STALENESS_SECONDS
    (run_dir / "without").mkdir()
    async with running_sidecar(run_dir / "without") as without:
        assert without.flowless.starts[0].max_staleness.ToTimedelta().total_seconds() == STALENESS_SECONDS
