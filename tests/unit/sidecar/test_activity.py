"""Reports of use: batched, bounded, put back when they fail, and the only thing that slides a deadline."""

import asyncio
from collections.abc import Sequence

from bridge_sidecar.activity import BATCH, ActivityReporter, SessionIdle, SessionUse
from bridge_sidecar.session_cache import CacheLimits, Entry, SessionCache
from tests.support.clock import FakeClock
from trust_core.clock import NS_PER_SECOND
from trust_core.errors import Reason, TrustError
from trust_core.modes import Binding

A, B = b"a" * 32, b"b" * 32
FAR = 10**18


class Receiver:
    """An `ActivityReceiver` that keeps the reports and fails when told to."""

    def __init__(self) -> None:
        self.reports: list[list[SessionUse]] = []
        self.error: TrustError | None = None
        self.arrived = asyncio.Event()

    async def report_activity(self, uses: Sequence[SessionUse]) -> Sequence[SessionIdle]:
        if self.error is not None:
            raise self.error
        self.reports.append(list(uses))
        self.arrived.set()
        return [SessionIdle(use.digest, 300 * NS_PER_SECOND) for use in uses]


class Setup:
    def __init__(self, *, max_entries: int = 5_000, interval_seconds: float = 15.0) -> None:
        self.clock = FakeClock()
        self.receiver = Receiver()
        self.cache = SessionCache(
            limits=CacheLimits(max_entries=10, max_bytes=10**6, negative_max_entries=1, negative_ttl_ns=1)
        )
        self.reporter = ActivityReporter(
            receiver=self.receiver,
            cache=self.cache,
            clock=self.clock,
            interval_seconds=interval_seconds,
            max_entries=max_entries,
        )

    def use(self, digest: bytes, *, idle_expires_at_ns: int = FAR) -> None:
        self.reporter.record(digest, now_ns=self.clock.elapsed_ns(), idle_expires_at_ns=idle_expires_at_ns)


async def test_each_session_is_reported_once_with_the_time_since_its_last_use() -> None:
    setup = Setup()
    setup.use(A)
    setup.use(B)
    setup.clock.advance(2)
    setup.use(A)
    setup.clock.advance(1)
    await setup.reporter.flush()
    assert setup.receiver.reports == [[(A, NS_PER_SECOND), (B, 3 * NS_PER_SECOND)]]
    await setup.reporter.flush()
    assert len(setup.receiver.reports) == 1


async def test_the_answer_slides_the_idle_deadline_from_when_the_report_was_sent() -> None:
    setup = Setup()
    now = setup.clock.elapsed_ns()
    entry = Entry(
        payload=b"",
        user_id="u",
        binding=Binding(),
        roles=frozenset(),
        authenticated_at_ns=0,
        revision=0,
        absolute_expires_at_ns=FAR,
        idle_expires_at_ns=now + 60 * NS_PER_SECOND,
        filled_at_ns=now,
    )
    setup.cache.insert(setup.cache.ticket(), A, entry, now)
    setup.use(A)
    setup.clock.advance(10)
    await setup.reporter.flush()
    assert entry.idle_expires_at_ns == now + 310 * NS_PER_SECOND


async def test_reports_are_cut_into_batches() -> None:
    setup = Setup()
    for number in range(BATCH + 1):
        setup.use(number.to_bytes(32))
    await setup.reporter.flush()
    assert [len(report) for report in setup.receiver.reports] == [BATCH, 1]


async def test_a_failed_report_is_sent_again_without_undoing_later_uses() -> None:
    setup = Setup()
    setup.use(A)
    setup.use(B)
    setup.receiver.error = TrustError(Reason.UPSTREAM_UNAVAILABLE, "away")
    await setup.reporter.flush()
    assert (setup.reporter.failed_reports, setup.reporter.pending) == (1, 2)
    setup.clock.advance(5)
    setup.use(A)
    setup.receiver.error = None
    await setup.reporter.flush()
    assert dict(setup.receiver.reports[0]) == {A: 0, B: 5 * NS_PER_SECOND}


async def test_what_does_not_fit_is_dropped_and_counted() -> None:
    setup = Setup(max_entries=1)
    setup.use(A)
    setup.use(A)
    setup.use(B)
    assert (setup.reporter.pending, setup.reporter.dropped) == (1, 1)


async def test_a_flowless_that_does_not_know_the_call_is_left_in_peace_about_it() -> None:
    setup = Setup()
    setup.receiver.error = TrustError(Reason.NOT_IMPLEMENTED, "not built")
    setup.use(A)
    await setup.reporter.flush()
    assert setup.reporter.pending == 0


async def test_a_session_close_to_its_idle_deadline_is_reported_at_once() -> None:
    setup = Setup(interval_seconds=60.0)
    running = asyncio.create_task(setup.reporter.run())
    try:
        setup.use(A, idle_expires_at_ns=setup.clock.elapsed_ns() + 119 * NS_PER_SECOND)
        await asyncio.wait_for(setup.receiver.arrived.wait(), 20)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
