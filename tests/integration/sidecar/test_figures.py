"""What a sidecar tells Flowless of itself with its pings."""

from pathlib import Path

from tests.support.sidecar import new_id, running_sidecar, until
from trust_core.modes import DenialReason
from trustlayer.v1 import bridge_pb2, types_pb2


async def test_the_first_pings_of_a_stream_and_then_some_carry_the_figures(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as running:
        await until(lambda: sum(ping.HasField("figures") for ping in running.flowless.pings) >= 3)
        pings = running.flowless.pings
        assert pings[0].HasField("figures")
        assert pings[0].figures.uptime.ToTimedelta() < pings[-1].figures.uptime.ToTimedelta()
        assert not pings[0].figures.lease_held
        assert not pings[0].figures.HasField("lease_age")
        assert [ping.figures.lease_held for ping in pings[1:3]] == [True, False], "told at once that there is a lease"
        assert pings[1].figures.HasField("lease_age")
        assert not pings[2].HasField("figures"), "not with every ping"
        await running.flowless.stop()
        await running.lease_lost()
        await running.flowless.start()
        await running.leased()
        assert running.flowless.pings[0].HasField("figures"), "whom the new stream leads to knows nothing yet"


async def test_the_figures_are_those_of_status_and_name_no_session(run_dir: Path) -> None:
    revoked, unknown = new_id(), new_id()
    async with running_sidecar(run_dir) as running:
        running.flowless.sessions[revoked] = DenialReason.REVOKED
        for session_id in (revoked, revoked, unknown, "garbage"):
            await running.validate(session_id)
        await running.validate(unknown, route="no such rule")
        told = running.sidecar.watch._told.message()
        status = await running.status()
        assert (told.hits, told.misses, told.unavailable) == (status.hits, status.misses, status.unavailable)
        assert (told.hits, told.misses, told.cached_sessions) == (1, 2, 0)
        assert {denial.reason: denial.count for denial in told.denials} == {
            types_pb2.DENIAL_REASON_MALFORMED: 1,
            types_pb2.DENIAL_REASON_UNKNOWN: 1,
            types_pb2.DENIAL_REASON_REVOKED: 2,
            types_pb2.DENIAL_REASON_ROUTE_NOT_COVERED: 1,
        }
        assert len(told.SerializeToString()) < 200


async def test_reasons_of_a_newer_flowless_are_counted_under_one_name(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as running:
        for reason in range(1_000, 1_050):
            running.sidecar.validator.counters.denied(reason)
        assert list(running.sidecar.watch._told.message().denials) == [bridge_pb2.DenialCount(count=50)]
