"""A warm start never puts into the cache what a revocation has touched, and never holds anything up."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from bridge_sidecar import prewarm as module
from bridge_sidecar.prewarm import Prewarm, PrewarmedSession
from bridge_sidecar.session_cache import CacheLimits, Revocation, SessionCache, weight
from bridge_sidecar.validator import ActiveSession, Counters, entry_of
from tests.support.clock import FakeClock
from tests.support.report_log import log_into_report
from trust_core.clock import NS_PER_SECOND
from trust_core.errors import Reason, TrustError
from trust_core.modes import Binding

LOG = "log-1"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    log_into_report(level="error")
    yield
    log_into_report()


def session(
    number: int, *, revision: int = 10, user_id: str = "u1", idle_ns: int = NS_PER_SECOND
) -> PrewarmedSession:
    active = ActiveSession(
        payload=b"payload",
        user_id=user_id,
        binding=Binding(),
        roles=frozenset(),
        authentication_age_ns=0,
        absolute_remaining_ns=100 * NS_PER_SECOND,
        idle_remaining_ns=idle_ns,
    )
    return PrewarmedSession(bytes([number]) * 32, active, revision)


class Source:
    """Streams what it has; runs the test's step before each; then fails if told to."""

    def __init__(self, *sessions: PrewarmedSession, error: Exception | None = None) -> None:
        self.sessions = sessions
        self.error = error
        self.step: Callable[[], object] = lambda: None
        self.asked: list[int] = []

    async def prewarm(self, limit: int, *, timeout_seconds: float) -> AsyncIterator[PrewarmedSession]:
        self.asked.append(limit)
        for found in self.sessions:
            self.step()
            yield found
        if self.error is not None:
            raise self.error


class Bench:
    def __init__(self, source: Source, *, max_entries: int = 100, max_bytes: int = 10**6, limit: int = 100) -> None:
        self.clock = FakeClock()
        self.cache = SessionCache(
            limits=CacheLimits(
                max_entries=max_entries, max_bytes=max_bytes, negative_max_entries=1, negative_ttl_ns=1
            )
        )
        self.cache.reset(log_id=LOG, revision=10)
        self.counters = Counters()
        self.prewarm = Prewarm(source=source, cache=self.cache, counters=self.counters, clock=self.clock, limit=limit)

    def cached(self) -> list[int]:
        now = self.clock.elapsed_ns()
        return [n for n in range(256) if self.cache.get(bytes([n]) * 32, now) is not None]


async def test_what_was_used_last_is_in_the_cache_and_the_last_to_make_way() -> None:
    bench = Bench(Source(*(session(n) for n in range(5))), max_entries=5)
    await bench.prewarm.run()
    assert bench.counters.prewarmed == 5
    fresh = session(9)
    entry = entry_of(fresh.active, revision=10, sent_at_ns=bench.clock.elapsed_ns())
    bench.cache.insert(bench.cache.ticket(), fresh.digest, entry, bench.clock.elapsed_ns())
    assert bench.cached() == [0, 1, 2, 3, 9]


@pytest.mark.parametrize("target", [{"session_digest": bytes([1]) * 32}, {"user_id": "u2"}])
async def test_a_revocation_that_is_applied_while_the_answer_is_under_way_keeps_it_out(
    target: dict[str, str],
) -> None:
    source = Source(session(0), session(1, user_id="u2"))
    bench = Bench(source)

    def revoke_once() -> None:
        if bench.cache.applied_revision == 10:
            bench.cache.apply(Revocation(revision=11, **target))  # type: ignore[arg-type]

    source.step = revoke_once
    await bench.prewarm.run()
    assert bench.cached() == [0]


async def test_a_revocation_that_comes_afterwards_removes_it() -> None:
    bench = Bench(Source(session(0), session(1)))
    await bench.prewarm.run()
    bench.cache.apply(Revocation(revision=11, session_digest=bytes([1]) * 32))
    assert bench.cached() == [0]


async def test_after_a_reset_nothing_of_before_is_taken_in() -> None:
    source = Source(session(0))
    bench = Bench(source)
    source.step = lambda: bench.cache.reset(log_id="log-2", revision=10)
    await bench.prewarm.run()
    assert bench.cached() == []


async def test_deadlines_count_from_when_the_question_was_sent() -> None:
    source = Source(session(0), session(1, idle_ns=2 * NS_PER_SECOND))
    bench = Bench(source)
    source.step = lambda: bench.clock.advance(0.5)
    await bench.prewarm.run()
    assert bench.cached() == [1], "half a second of waiting twice is the first one's whole idle time"
    bench.clock.advance(1.0)
    assert bench.cached() == []


async def test_nothing_that_was_asked_for_makes_way_or_is_replaced() -> None:
    bench = Bench(Source(*(session(n) for n in range(5))), max_entries=3)
    asked = session(7)
    mine = entry_of(asked.active, revision=10, sent_at_ns=bench.clock.elapsed_ns())
    bench.cache.insert(bench.cache.ticket(), asked.digest, mine, bench.clock.elapsed_ns())
    await bench.prewarm.run()
    assert bench.cached() == [0, 1, 7]
    small = Bench(Source(*(session(n) for n in range(5))), max_bytes=2 * weight(mine))
    await small.prewarm.run()
    assert small.cached() == [0, 1]


async def test_no_more_than_the_limit_is_taken_and_none_when_it_is_nought() -> None:
    source = Source(*(session(n) for n in range(5)))
    bench = Bench(source, limit=3)
    await bench.prewarm.run()
    assert (bench.cached(), source.asked) == ([0, 1, 2], [3])
    await Bench(source, limit=0).prewarm.run()
    assert source.asked == [3]


@pytest.mark.parametrize(
    "error",
    [
        TrustError(Reason.NOT_IMPLEMENTED, ""),
        TrustError(Reason.UPSTREAM_UNAVAILABLE, ""),
        RuntimeError("unexpected"),
        TimeoutError(),
    ],
)
async def test_whatever_it_fails_with_costs_warmth_only_and_what_came_is_kept(error: Exception) -> None:
    bench = Bench(Source(session(0), error=error))
    await bench.prewarm.run()
    assert bench.cached() == [0]


async def test_a_flowless_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PREWARM_SECONDS", 0.05)

    class Silent(Source):
        async def prewarm(self, limit: int, *, timeout_seconds: float) -> AsyncIterator[PrewarmedSession]:
            yield session(0)
            await asyncio.Event().wait()

    bench = Bench(Silent())
    async with asyncio.timeout(20):
        await bench.prewarm.run()
    assert bench.cached() == [0]
