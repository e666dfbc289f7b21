"""When is it certain that no sidecar says yes any more? Replicas that answer, hang, are gone, return."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import pytest

from flowless.domain.replicas import Acknowledgement, BarrierOutcome, ReplicaRecord, ReplicaReport
from flowless.services import barriers as module
from flowless.services.barriers import Barriers, standing_of
from flowless.services.watchers import Watchers
from tests.support.clock import FakeClock
from tests.support.scripted_replicas import ScriptedReplicas
from trust_core.errors import Reason, TrustError

T = TypeVar("T")
ENOUGH = 20.0
SECOND_NS = 1_000_000_000
STALENESS = timedelta(seconds=3)


def record(
    replica_id: str = "other", *, acknowledged: int = 0, applied: int = 0, expired: int = 0, watching: int = 0
) -> ReplicaRecord:
    return ReplicaRecord(
        report=ReplicaReport(
            id=replica_id,
            name=replica_id,
            beat=1,
            revision=0,
            longest_staleness=STALENESS,
            watching=watching,
            watchers=(),
        ),
        doubted=False,
        acknowledged=Acknowledgement(revision=acknowledged, applied=applied, expired=expired),
    )


def test_all_that_acknowledge_make_it_reached_and_are_added_up() -> None:
    records = [record("a", acknowledged=7, applied=2, expired=1), record("b", acknowledged=9, applied=3)]
    assert standing_of(records, 7, waited_ns=0) == BarrierOutcome(reached=True, applied=5, expired=1, waiting=0)


def test_one_that_does_not_is_waited_for_as_long_as_its_leases_may_last_and_no_longer() -> None:
    records = [record("a", acknowledged=7, applied=2), record("b", acknowledged=6, applied=9, watching=4)]
    before = standing_of(records, 7, waited_ns=3 * SECOND_NS - 1)
    assert before == BarrierOutcome(reached=False, applied=2, expired=0, waiting=4)
    after = standing_of(records, 7, waited_ns=3 * SECOND_NS)
    assert after == BarrierOutcome(reached=True, applied=2, expired=4, waiting=0)


def test_one_without_watchers_has_to_acknowledge_too() -> None:
    """It may answer from Redis as of before the revoke."""
    assert not standing_of([record("a")], 7, waited_ns=0).reached


class Bench:
    """One replica over a table that a test holds in its hands. `ask` is heard by this replica at once."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.watchers = Watchers()
        self.registry = ScriptedReplicas(on_ask=self._asked)
        self.hears = True
        self.barriers = Barriers(
            registry=self.registry, watchers=self.watchers, clock=self.clock, replica_id="me", name="me"
        )

    def _asked(self, revision: int) -> None:
        if self.hears:
            self.barriers.on_read(revision=revision, barrier_revision=revision)

    async def run(self, work: Awaitable[T]) -> T:
        running = asyncio.create_task(self.barriers.run())
        try:
            async with asyncio.timeout(ENOUGH):
                return await work
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await self.barriers.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    await made.barriers.join()
    return made


async def test_with_nobody_watching_a_revoke_does_not_wait(bench: Bench) -> None:
    outcome = await bench.run(bench.barriers.wait(5, timeout_seconds=ENOUGH))
    assert outcome == BarrierOutcome(reached=True, applied=0, expired=0, waiting=0)
    assert bench.barriers.outcomes == {"reached": 1, "not_reached": 0}


async def test_a_watcher_that_holds_a_lease_is_waited_for_until_it_says_that_it_has_applied(bench: Bench) -> None:
    watcher = bench.watchers.arrive(
        bridge_id="b", instance="", watcher_id="", staleness_ns=3 * SECOND_NS, applied_revision=4
    )
    bench.watchers.pinged(watcher, applied_revision=4, now_ns=bench.clock.elapsed_ns())

    async def scene() -> BarrierOutcome:
        waiting = asyncio.create_task(bench.barriers.wait(5, timeout_seconds=ENOUGH))
        await bench.until(lambda: bench.barriers.asked == 5)
        await asyncio.sleep(0.03)
        assert not waiting.done()
        bench.watchers.applied(watcher, applied_revision=5)
        return await waiting

    assert await bench.run(scene()) == BarrierOutcome(reached=True, applied=1, expired=0, waiting=0)


async def test_a_watcher_that_says_nothing_is_waited_for_until_its_lease_is_over(bench: Bench) -> None:
    watcher = bench.watchers.arrive(
        bridge_id="b", instance="", watcher_id="", staleness_ns=SECOND_NS // 20, applied_revision=4
    )
    bench.watchers.pinged(watcher, applied_revision=4, now_ns=bench.clock.elapsed_ns())

    async def scene() -> BarrierOutcome:
        waiting = asyncio.create_task(bench.barriers.wait(5, timeout_seconds=ENOUGH))
        await asyncio.sleep(0.03)
        assert not waiting.done()
        bench.clock.advance(0.055)
        return await waiting

    assert await bench.run(scene()) == BarrierOutcome(reached=True, applied=0, expired=1, waiting=0)


async def test_a_replica_that_hangs_makes_it_time_out_and_the_answer_says_who_is_missing(bench: Bench) -> None:
    bench.registry.records["other"] = record(watching=2)
    outcome = await bench.run(bench.barriers.wait(5, timeout_seconds=0.05))
    assert outcome == BarrierOutcome(reached=False, applied=0, expired=0, waiting=2)
    assert bench.barriers.outcomes == {"reached": 0, "not_reached": 1}


async def test_a_replica_that_is_gone_is_waited_for_as_long_as_it_said(bench: Bench) -> None:
    bench.registry.records["other"] = record(watching=2)

    async def scene() -> BarrierOutcome:
        waiting = asyncio.create_task(bench.barriers.wait(5, timeout_seconds=ENOUGH))
        await asyncio.sleep(0.03)
        bench.clock.advance(2.9)
        await asyncio.sleep(0.03)
        assert not waiting.done()
        bench.clock.advance(0.1)
        return await waiting

    assert await bench.run(scene()) == BarrierOutcome(reached=True, applied=0, expired=2, waiting=0)


async def test_storage_that_fails_is_an_answer_and_not_an_error(bench: Bench) -> None:
    bench.registry.error = TrustError(Reason.STORAGE_UNAVAILABLE, "gone")
    outcome = await bench.run(bench.barriers.wait(5, timeout_seconds=0.05))
    assert not outcome.reached


async def test_storage_that_comes_back_in_time_lets_it_be_reached(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.001)

    async def scene() -> BarrierOutcome:
        waiting = asyncio.create_task(bench.barriers.wait(5, timeout_seconds=ENOUGH))
        await bench.until(lambda: bench.barriers.asked == 5)
        bench.registry.error = TrustError(Reason.STORAGE_UNAVAILABLE, "gone")
        bench.registry.records["me"] = record("me")
        await asyncio.sleep(0.02)
        bench.registry.error = None
        bench.barriers.start_over()
        bench.barriers.on_read(revision=5, barrier_revision=5)
        return await waiting

    assert (await bench.run(scene())).reached


async def test_a_caller_that_gives_up_is_no_longer_waited_for(bench: Bench) -> None:
    bench.registry.records["other"] = record(watching=2)

    async def scene() -> None:
        waiting = asyncio.create_task(bench.barriers.wait(5, timeout_seconds=ENOUGH))
        await bench.until(lambda: bench.barriers.asked == 5)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert bench.barriers._waiters == []
        looking = bench.barriers._looking
        assert looking is not None
        await bench.until(looking.done)

    await bench.run(scene())


async def test_what_others_know_is_raised_before_a_watcher_may_rely_on_more(bench: Bench) -> None:
    assert bench.barriers.longest_staleness_ns == 2 * SECOND_NS
    bench.registry.error = TrustError(Reason.STORAGE_UNAVAILABLE, "gone")
    with pytest.raises(TrustError):
        await bench.barriers.admit(timedelta(seconds=30))
    assert bench.barriers.longest_staleness_ns == 2 * SECOND_NS
    bench.registry.error = None
    await bench.barriers.admit(timedelta(seconds=30))
    assert bench.registry.records["me"].report.longest_staleness == timedelta(seconds=33), (
        "others' clocks may be slow"
    )
    assert bench.barriers.longest_staleness_ns == 30 * SECOND_NS


async def test_another_that_is_silent_is_doubted_and_then_forgotten_by_our_own_clock(bench: Bench) -> None:
    bench.registry.records["other"] = record()

    async def look(seconds: float) -> ReplicaRecord | None:
        bench.clock.advance(seconds)
        await bench.barriers._look_after_others()
        return bench.registry.records.get("other")

    assert await look(0) is not None
    found = await look(module.DOUBT_AFTER_SECONDS - 1)
    assert found is not None
    assert not found.doubted
    found = await look(1)
    assert found is not None
    assert found.doubted
    await look(0)  # seen as doubted for the first time
    assert await look(2.9) is not None, "its leases may last for three seconds"
    assert await look(0.2) is None


async def test_another_that_reports_again_is_believed_again(bench: Bench) -> None:
    bench.registry.records["other"] = record()
    await bench.barriers._look_after_others()
    bench.clock.advance(module.DOUBT_AFTER_SECONDS)
    await bench.barriers._look_after_others()
    report = bench.registry.records["other"].report
    bench.clock.advance(60)
    await bench.registry.report(
        ReplicaReport(
            id="other",
            name="other",
            beat=report.beat + 1,
            revision=0,
            longest_staleness=STALENESS,
            watching=0,
            watchers=(),
        )
    )
    await bench.barriers._look_after_others()
    assert not bench.registry.records["other"].doubted


async def test_who_leaves_in_good_order_is_doubted_at_once(bench: Bench) -> None:
    await bench.barriers.leave()
    assert bench.registry.records["me"].doubted


async def test_nobody_is_asked_for_what_was_not_read_yet(bench: Bench) -> None:
    """Its rows have not been passed on: whoever confirmed would confirm nothing."""
    assert not bench.barriers.on_read(revision=0, barrier_revision=9)
    assert bench.barriers.on_read(revision=4, barrier_revision=9)
    assert bench.barriers.asked == 4
    assert not bench.barriers.on_read(revision=4, barrier_revision=9)
    assert bench.barriers.on_read(revision=12, barrier_revision=9)
    assert bench.barriers.asked == 9


async def test_revisions_of_another_log_acknowledge_nothing_of_this_one(bench: Bench) -> None:
    await bench.run(bench.barriers.wait(9, timeout_seconds=ENOUGH))
    bench.barriers.start_over()
    bench.registry.records["me"] = record("me")  # as the other database has it
    outcome = await bench.run(bench.barriers.wait(3, timeout_seconds=ENOUGH))
    assert outcome.reached
    assert bench.registry.records["me"].acknowledged.revision == 3


async def test_a_replica_whose_record_was_forgotten_acknowledges_anew(bench: Bench) -> None:
    """What it acknowledged went with the record: a repeated revoke would wait for it in vain."""
    await bench.run(bench.barriers.wait(5, timeout_seconds=ENOUGH))
    del bench.registry.records["me"]
    await bench.barriers.join()
    again = await bench.run(bench.barriers.wait(5, timeout_seconds=ENOUGH))
    assert again.reached
    assert bench.registry.records["me"].acknowledged.revision == 5


async def test_only_a_report_that_storage_confirmed_counts_as_the_last(bench: Bench) -> None:
    assert bench.barriers.confirmed_beat == 1
    bench.registry.error = TrustError(Reason.STORAGE_UNAVAILABLE, "gone")
    with pytest.raises(TrustError):
        await bench.barriers.join()
    assert bench.barriers.confirmed_beat == 1
    bench.registry.error = None
    await bench.barriers.join()
    assert bench.barriers.confirmed_beat == bench.registry.records["me"].report.beat == 3
