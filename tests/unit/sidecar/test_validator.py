"""Hit, coalesced miss, refusal: the orders of events that a socket cannot be made to show reliably.

The source here answers when the test says so; everything behind the validator is real.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_sidecar.lease import Lease
from bridge_sidecar.mismatches import MismatchReporter
from bridge_sidecar.routes import OnMismatch, Rule
from bridge_sidecar.session_cache import CacheLimits, Revocation, SessionCache
from bridge_sidecar.validator import (
    ActiveSession,
    MissLimits,
    Question,
    Tier,
    UpstreamAnswer,
    Validator,
    Verdict,
)
from tests.support.clock import FakeClock
from tests.support.scripted_flowless import BROWSER
from tests.support.sidecar import new_id
from trust_core.clock import NS_PER_SECOND
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import digest
from trust_core.modes import DenialReason, IpPrefixes, RequestContext, ValidationMode, bind

STALENESS_NS = 2 * NS_PER_SECOND


@dataclass
class Asked:
    """One question that reached upstream."""

    session_id: str
    min_revision: int
    answer: "asyncio.Future[UpstreamAnswer]"

    def active(
        self,
        *,
        revision: int,
        user_id: str = "u1",
        roles: frozenset[str] = frozenset(),
        authenticated_seconds_ago: float = 0,
    ) -> None:
        """Answer: active."""
        session = ActiveSession(
            payload=b"payload",
            user_id=user_id,
            binding=bind(BROWSER, b"k" * 32),
            roles=roles,
            authentication_age_ns=round(authenticated_seconds_ago * NS_PER_SECOND),
            absolute_remaining_ns=600 * NS_PER_SECOND,
            idle_remaining_ns=300 * NS_PER_SECOND,
        )
        self.answer.set_result(UpstreamAnswer(active=session, denial=0, tier=Tier.DATABASE, revision=revision))

    def denied(self, reason: int, *, revision: int) -> None:
        """Answer: no."""
        self.answer.set_result(UpstreamAnswer(active=None, denial=reason, tier=Tier.DATABASE, revision=revision))


class Upstream:
    """A `SessionSource` whose answers the test gives."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.reports: list[tuple[str, ValidationMode, RequestContext, Rule]] = []
        self.report_error: TrustError | None = None
        self.report_revision = 0
        self.reporting = asyncio.Event()
        self.reporting.set()

    async def validate_session(self, session_id: str, *, min_revision: int, timeout_seconds: float) -> UpstreamAnswer:
        assert timeout_seconds > 0
        asked = Asked(session_id, min_revision, asyncio.get_running_loop().create_future())
        self.asked.append(asked)
        return await asked.answer

    async def report_mismatch(
        self, session_id: str, *, mode: ValidationMode, context: RequestContext, rule: Rule, timeout_seconds: float
    ) -> int:
        assert timeout_seconds > 0
        self.reports.append((session_id, mode, context, rule))
        await self.reporting.wait()
        if self.report_error is not None:
            raise self.report_error
        return self.report_revision

    async def question(self, number: int) -> Asked:
        """Wait for the n-th question, counted from 1."""
        for _ in range(1_000):
            if len(self.asked) >= number:
                return self.asked[number - 1]
            await asyncio.sleep(0)
        raise AssertionError(f"only {len(self.asked)} questions were asked")


class Uses:
    """An `ActivitySink` that keeps a list."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []

    def record(self, digest: bytes, *, now_ns: int, idle_expires_at_ns: int) -> None:
        assert idle_expires_at_ns > now_ns
        self.digests.append(digest)


class Setup:
    """A validator with a lease, at revision 0 of a log."""

    def __init__(self, *, upstream_timeout_seconds: float = 30.0, grants: dict[str, float] | None = None) -> None:
        self.clock = FakeClock()
        self.cache = SessionCache(
            limits=CacheLimits(
                max_entries=10, max_bytes=10**6, negative_max_entries=10, negative_ttl_ns=5 * NS_PER_SECOND
            )
        )
        self.cache.reset(log_id="log", revision=0)
        self.lease = Lease(max_staleness_ns=STALENESS_NS)
        self.renew()
        self.upstream = Upstream()
        self.uses = Uses()
        self.validator = Validator(
            cache=self.cache,
            lease=self.lease,
            source=self.upstream,
            activity=self.uses,
            clock=self.clock,
            limits=MissLimits(max_concurrent=2, max_waiting=2, upstream_timeout_seconds=upstream_timeout_seconds),
            mismatches=MismatchReporter(receiver=self.upstream, timeout_seconds=upstream_timeout_seconds),
        )
        self.rules = {
            route: Rule(name=route, serve_beyond_lease_ns=round(seconds * NS_PER_SECOND))
            for route, seconds in (grants or {}).items()
        }

    def renew(self) -> None:
        self.lease.renew(self.clock.elapsed_ns())

    def ask(
        self,
        session_id: str,
        *,
        min_revision: int = 0,
        context: RequestContext = BROWSER,
        mode: ValidationMode = ValidationMode.STRICT,
        route: str = "",
    ) -> "asyncio.Task[Verdict]":
        """Begin to ask."""
        rule = self.rules.get(route, Rule(name=route))
        question = Question(session_id=session_id, mode=mode, context=context, min_revision=min_revision, rule=rule)
        return asyncio.create_task(self.validator.validate(question))

    async def fill(self, session_id: str, *, revision: int = 0) -> None:
        """Ask, and answer: active."""
        number = len(self.upstream.asked) + 1
        asking = self.ask(session_id)
        (await self.upstream.question(number)).active(revision=revision)
        await asking


async def test_a_hit_says_how_old_it_is_and_up_to_which_revision_it_is_good() -> None:
    setup, session_id = Setup(), new_id()
    await setup.fill(session_id)
    setup.cache.apply(Revocation(revision=1))
    setup.clock.advance(1.5)
    assert await setup.ask(session_id) == Verdict(b"payload", 0, Tier.LRU, 1, 1_500_000_000)
    assert setup.uses.digests == [digest(session_id)] * 2


async def test_a_hit_of_an_answer_ahead_of_the_watch_reports_the_answers_revision() -> None:
    setup, session_id = Setup(), new_id()
    await setup.fill(session_id, revision=9)
    assert (await setup.ask(session_id)).revision == 9


async def test_a_moment_after_the_lease_nothing_comes_from_the_cache() -> None:
    setup, session_id = Setup(), new_id()
    await setup.fill(session_id)
    setup.clock.advance(2.0)
    asking = setup.ask(session_id)
    (await setup.upstream.question(2)).denied(DenialReason.REVOKED, revision=1)
    assert (await asking).denial == DenialReason.REVOKED


async def test_a_denied_context_is_no_use_of_the_session() -> None:
    setup, session_id = Setup(), new_id()
    asking = setup.ask(session_id, context=RequestContext(client_ip="198.51.100.9"))
    (await setup.upstream.question(1)).active(revision=0)
    assert (await asking).denial == DenialReason.IP_MISMATCH
    assert setup.uses.digests == []


async def test_a_denial_that_this_version_does_not_know_is_a_denial_and_is_asked_again() -> None:
    setup, session_id = Setup(), new_id()
    for number in (1, 2):
        asking = setup.ask(session_id)
        (await setup.upstream.question(number)).denied(99, revision=0)
        assert (await asking).denial == 99


async def test_an_answer_outrun_again_and_again_is_given_up_after_two_more_questions() -> None:
    setup, session_id = Setup(), new_id()
    asking = setup.ask(session_id)
    for number in (1, 2, 3):
        asked = await setup.upstream.question(number)
        assert asked.min_revision == number - 1
        setup.cache.apply(Revocation(revision=number, user_id="u1"))
        asked.active(revision=number - 1)
    with pytest.raises(TrustError) as error:
        await asking
    assert error.value.reason is Reason.UPSTREAM_UNAVAILABLE
    assert len(setup.upstream.asked) == 3
    assert setup.cache.entries == 0


async def test_an_answer_of_the_log_before_is_asked_again() -> None:
    setup, session_id = Setup(), new_id()
    asking = setup.ask(session_id)
    asked = await setup.upstream.question(1)
    setup.cache.reset(log_id="new log", revision=3)
    asked.active(revision=50)
    (await setup.upstream.question(2)).active(revision=3)
    assert (await asking).revision == 3


async def test_without_a_lease_a_question_that_was_sent_is_not_shared_and_one_that_waits_for_a_slot_is() -> None:
    """Nobody who waits for all sidecars waits for one without a lease: what was sent may be older than the revoke."""
    setup, session_id, others = Setup(), new_id(), [new_id(), new_id()]
    first = setup.ask(session_id)
    sent = await setup.upstream.question(1)
    setup.lease.drop()
    second = setup.ask(session_id)
    sent_later = await setup.upstream.question(2)
    third, fourth = setup.ask(others[0]), setup.ask(others[0])  # both slots are taken: neither is sent yet
    await asyncio.sleep(0)
    sent.active(revision=0)
    (await setup.upstream.question(3)).denied(DenialReason.REVOKED, revision=1)
    sent_later.denied(DenialReason.REVOKED, revision=1)
    assert [(await asked).denial for asked in (first, second, third, fourth)] == [0, *[DenialReason.REVOKED] * 3]
    assert len(setup.upstream.asked) == 3


async def test_a_caller_who_needs_a_later_revision_does_not_join_a_call_that_asks_for_less() -> None:
    setup, session_id = Setup(), new_id()
    first, second = setup.ask(session_id), setup.ask(session_id, min_revision=4)
    less, more = await setup.upstream.question(1), await setup.upstream.question(2)
    assert (less.min_revision, more.min_revision) == (0, 4)
    third = setup.ask(session_id, min_revision=3)  # may join the one that asks for more
    await asyncio.sleep(0)
    less.active(revision=0)
    more.active(revision=4)
    assert [(await asking).revision for asking in (first, second, third)] == [0, 4, 4]
    assert len(setup.upstream.asked) == 2


async def test_the_call_ends_when_the_last_caller_has_gone() -> None:
    setup, session_id = Setup(), new_id()
    asking = setup.ask(session_id)
    asked = await setup.upstream.question(1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.sleep(0)
    assert asked.answer.cancelled()
    again = setup.ask(session_id)  # does not join what was cancelled
    (await setup.upstream.question(2)).active(revision=0)
    assert (await again).payload == b"payload"


async def test_everybody_who_waits_learns_why_the_call_failed() -> None:
    setup, session_id = Setup(), new_id()
    asking = [setup.ask(session_id) for _ in range(3)]
    asked = await setup.upstream.question(1)
    await asyncio.sleep(0)
    asked.answer.set_exception(TrustError(Reason.STORAGE_UNAVAILABLE, "away"))
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [getattr(result, "reason", None) for result in results] == [Reason.STORAGE_UNAVAILABLE] * 3
    assert setup.validator.counters.unavailable == 3
    assert len(setup.upstream.asked) == 1


async def test_calls_are_bounded_and_those_who_wait_get_their_turn() -> None:
    setup = Setup()
    asking = [setup.ask(new_id()) for _ in range(4)]
    await setup.upstream.question(2)
    with pytest.raises(TrustError) as error:
        await setup.ask(new_id())
    assert error.value.reason is Reason.TOO_MANY_MISSES
    assert len(setup.upstream.asked) == 2
    for number in (1, 2, 3, 4):
        (await setup.upstream.question(number)).denied(DenialReason.UNKNOWN, revision=0)
    assert {(await one).denial for one in asking} == {DenialReason.UNKNOWN}


async def test_who_waits_too_long_for_a_turn_is_told_that_there_are_too_many() -> None:
    setup = Setup(upstream_timeout_seconds=0.05)
    for _ in range(2):
        await setup.validator._slots.acquire()  # as if two calls would not end
    with pytest.raises(TrustError) as error:
        await setup.ask(new_id())
    assert error.value.reason is Reason.TOO_MANY_MISSES


async def test_an_observed_revision_keeps_the_cache_out_until_it_is_applied() -> None:
    setup, session_id = Setup(), new_id()
    await setup.fill(session_id)
    setup.validator.observe_revision(1, log_id="log")
    asking = setup.ask(session_id)
    asked = await setup.upstream.question(2)
    assert asked.min_revision == 1
    asked.active(revision=1)
    await asking
    setup.cache.apply(Revocation(revision=1))
    assert (await setup.ask(session_id)).tier == Tier.LRU


async def test_a_revision_of_another_log_is_not_waited_for() -> None:
    setup, session_id = Setup(), new_id()
    setup.validator.observe_revision(500, log_id="log")
    setup.cache.reset(log_id="new log", revision=2)
    setup.renew()
    await setup.fill(session_id, revision=2)
    assert setup.upstream.asked[0].min_revision == 0
    assert (await setup.ask(session_id)).tier == Tier.LRU
    setup.validator.observe_revision(600, log_id="log")  # a call that was under way meanwhile
    assert (await setup.ask(session_id)).tier == Tier.LRU
    setup.validator.observe_revision(3, log_id="new log")
    setup.cache.apply(Revocation(revision=3))
    assert (await setup.ask(session_id)).tier == Tier.LRU


async def test_a_revision_observed_before_the_first_log_was_known_belongs_to_that_one_only() -> None:
    setup, session_id = Setup(), new_id()
    setup.cache.reset(log_id="", revision=0)
    setup.validator.observe_revision(5, log_id="")
    setup.cache.reset(log_id="log", revision=4)
    asking = setup.ask(session_id)
    asked = await setup.upstream.question(1)
    assert asked.min_revision == 5
    asked.active(revision=5)
    await asking
    setup.cache.reset(log_id="new log", revision=1)
    asking = setup.ask(session_id)
    asked = await setup.upstream.question(2)
    assert asked.min_revision == 0
    asked.active(revision=1)
    await asking


async def test_closing_cancels_what_is_in_flight() -> None:
    setup = Setup()
    asking = setup.ask(new_id())
    await setup.upstream.question(1)
    await setup.validator.close()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_an_answer_that_slept_through_a_suspend_is_not_believed_by_anybody_who_waits_for_it() -> None:
    setup, session_id = Setup(), new_id()
    before = setup.ask(session_id)
    asked = await setup.upstream.question(1)
    setup.clock.advance(100)  # the machine slept: timers stood still, and the session was revoked meanwhile
    joined = setup.ask(session_id)
    fresh = await setup.upstream.question(2)
    asked.active(revision=0)
    with pytest.raises(TrustError) as caught:
        await before
    assert caught.value.reason is Reason.UPSTREAM_UNAVAILABLE
    fresh.denied(DenialReason.REVOKED, revision=1)
    assert (await joined).denial == DenialReason.REVOKED


async def test_a_session_that_expired_on_the_way_is_asked_for_again_and_never_active() -> None:
    setup, session_id = Setup(upstream_timeout_seconds=900), new_id()
    asking = setup.ask(session_id)
    asked = await setup.upstream.question(1)
    setup.clock.advance(301)  # past the idle limit of the answer, within the timeout
    asked.active(revision=0)
    (await setup.upstream.question(2)).denied(DenialReason.IDLE, revision=0)
    assert (await asking).denial == DenialReason.IDLE


async def test_a_miss_and_a_held_denial_say_how_old_they_can_be() -> None:
    setup, session_id = Setup(), new_id()
    asking = setup.ask(session_id)
    asked = await setup.upstream.question(1)
    setup.clock.advance(0.25)
    asked.denied(DenialReason.UNKNOWN, revision=0)
    assert (await asking).age_ns == 250_000_000
    setup.clock.advance(0.5)
    assert (await setup.ask(session_id)).age_ns == 500_000_000


class Granted(Setup):
    """A setup in which `catalogue` may be served for 30 s after the lease ran out, and `search` for 10 s."""

    def __init__(self) -> None:
        super().__init__(upstream_timeout_seconds=2.0, grants={"catalogue": 30, "search": 10})

    def ask_for(self, session_id: str, route: str = "catalogue", **fields: Any) -> "asyncio.Task[Verdict]":
        """Begin to ask in STANDARD mode, for a route."""
        return self.ask(session_id, route=route, **{"mode": ValidationMode.STANDARD, **fields})

    async def ask_in_vain(
        self, session_id: str, route: str = "catalogue", *, why: Reason = Reason.UPSTREAM_UNAVAILABLE, **fields: Any
    ) -> Verdict | Reason:
        """Ask; upstream cannot say. Return what comes of it."""
        number = len(self.upstream.asked) + 1
        asking = self.ask_for(session_id, route, **fields)
        (await self.upstream.question(number)).answer.set_exception(TrustError(why, "away"))
        return await _outcome(asking)

    def counted(self) -> tuple[int, int]:
        """Answers beyond the lease, and calls that ended UNAVAILABLE."""
        return self.validator.counters.beyond_lease, self.validator.counters.unavailable


async def _outcome(asking: "asyncio.Task[Verdict]") -> Verdict | Reason:
    try:
        return await asking
    except TrustError as error:
        return error.reason


async def _outage(session_id: str, *, seconds: float = 3.0) -> Granted:
    """A session that was cached, and some time since the last ping; the lease lasts 2 s of it."""
    setup = Granted()
    await setup.fill(session_id)
    setup.clock.advance(seconds)
    return setup


_UNREACHED = (
    Reason.UPSTREAM_UNAVAILABLE,
    Reason.STORAGE_UNAVAILABLE,
    Reason.STORAGE_FULL,
    Reason.TOO_MANY_MISSES,
    Reason.REVISION_NOT_REACHED,
)


@pytest.mark.parametrize("why", _UNREACHED)
async def test_a_granted_route_is_served_from_the_cache_marked_and_counted_when_upstream_cannot_answer(
    why: Reason,
) -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    verdict = await setup.ask_in_vain(session_id, why=why)
    assert verdict == Verdict(b"payload", 0, Tier.LRU, 0, 3 * NS_PER_SECOND, NS_PER_SECOND)
    assert setup.counted() == (1, 0)
    assert setup.uses.digests == [digest(session_id)] * 2


async def test_an_answer_of_upstream_goes_before_what_a_route_is_granted() -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    asking = setup.ask_for(session_id)
    (await setup.upstream.question(2)).active(revision=0)
    verdict = await asking
    assert (verdict.tier, verdict.beyond_lease_ns) == (Tier.DATABASE, None)
    asking = setup.ask_for(session_id)
    (await setup.upstream.question(3)).denied(DenialReason.REVOKED, revision=1)
    assert (await asking).denial == DenialReason.REVOKED
    assert await setup.ask_in_vain(session_id) is Reason.UPSTREAM_UNAVAILABLE  # and a denial is not forgotten
    assert setup.counted() == (0, 1)


@pytest.mark.parametrize("denial", [DenialReason.IDLE, DenialReason.USER_DISABLED, 99])
async def test_a_denial_that_is_not_remembered_still_ends_what_a_route_is_granted(denial: int) -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    asking = setup.ask_for(session_id)
    (await setup.upstream.question(2)).denied(denial, revision=0)
    assert (await asking).denial == denial
    assert await setup.ask_in_vain(session_id) is Reason.UPSTREAM_UNAVAILABLE


@pytest.mark.parametrize("mode", [ValidationMode.ADVANCED, ValidationMode.STRICT])
async def test_no_mode_but_standard_is_served_beyond_the_lease(mode: ValidationMode) -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    assert await setup.ask_in_vain(session_id, mode=mode) is Reason.UPSTREAM_UNAVAILABLE
    assert setup.counted() == (0, 1)


@pytest.mark.parametrize("route", ["", "checkout", "Catalogue", "catalogue "])
async def test_no_route_but_a_granted_one_is_served_beyond_the_lease(route: str) -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    assert await setup.ask_in_vain(session_id, route) is Reason.UPSTREAM_UNAVAILABLE


async def test_each_route_is_served_for_as_long_as_it_was_granted_and_not_a_moment_longer() -> None:
    session_id = new_id()
    setup = await _outage(session_id, seconds=11.999_999_999)
    assert isinstance(await setup.ask_in_vain(session_id, "search"), Verdict)
    setup.clock.advance(0.000_000_001)
    assert await _at_once(setup.ask_for(session_id, "search")) is None
    setup.clock.advance(2)
    assert await setup.ask_in_vain(session_id, "search") is Reason.UPSTREAM_UNAVAILABLE
    assert isinstance(await _outcome(setup.ask_for(session_id, "catalogue")), Verdict)


async def test_what_is_not_cached_is_not_served_beyond_the_lease() -> None:
    setup = await _outage(new_id())
    assert await setup.ask_in_vain(new_id()) is Reason.UPSTREAM_UNAVAILABLE


async def test_the_sessions_own_deadlines_end_what_a_route_is_granted() -> None:
    setup, session_id = Granted(), new_id()
    await setup.fill(session_id)
    setup.clock.advance(299)
    setup.renew()
    setup.clock.advance(3)  # the lease ran out a second ago, the session two seconds ago
    assert await setup.ask_in_vain(session_id) is Reason.UPSTREAM_UNAVAILABLE


async def test_a_denied_context_beyond_the_lease_is_the_denial_as_usual() -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    verdict = await setup.ask_in_vain(session_id, context=RequestContext(client_ip="198.51.100.9"))
    assert isinstance(verdict, Verdict)
    assert (verdict.denial, verdict.beyond_lease_ns) == (DenialReason.IP_MISMATCH, NS_PER_SECOND)
    assert setup.uses.digests == [digest(session_id)]


async def test_a_held_denial_is_not_served_beyond_the_lease() -> None:
    setup, session_id = Granted(), new_id()
    asking = setup.ask_for(session_id)
    (await setup.upstream.question(1)).denied(DenialReason.UNKNOWN, revision=0)
    assert (await asking).denial == DenialReason.UNKNOWN
    setup.clock.advance(3)  # within the denial's time to live
    assert await setup.ask_in_vain(session_id) is Reason.UPSTREAM_UNAVAILABLE


@pytest.mark.parametrize("session_row", [True, False], ids=["of the session", "of the user"])
async def test_a_revocation_that_was_applied_is_refused_beyond_the_lease(*, session_row: bool) -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    row = {"session_digest": digest(session_id)} if session_row else {"user_id": "u1"}
    setup.cache.apply(Revocation(revision=1, **row))
    assert await setup.ask_in_vain(session_id) is Reason.UPSTREAM_UNAVAILABLE


async def test_a_revocation_that_this_app_wrote_and_that_is_not_applied_yet_is_refused_beyond_the_lease() -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    assert isinstance(await setup.ask_in_vain(session_id), Verdict)
    setup.validator.observe_revision(1, log_id="log")
    assert await setup.ask_in_vain(session_id) is Reason.UPSTREAM_UNAVAILABLE
    setup.cache.apply(Revocation(revision=1, session_digest=digest(session_id)))
    setup.clock.advance(2)
    assert await setup.ask_in_vain(session_id) is Reason.UPSTREAM_UNAVAILABLE


async def test_a_revision_that_is_demanded_and_not_applied_is_refused_beyond_the_lease() -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    assert await setup.ask_in_vain(session_id, min_revision=1) is Reason.UPSTREAM_UNAVAILABLE
    setup.cache.apply(Revocation(revision=1, user_id="somebody else"))
    setup.clock.advance(2)
    assert isinstance(await setup.ask_in_vain(session_id, min_revision=1), Verdict)


async def test_a_bridge_that_is_refused_gets_nothing_beyond_the_lease_until_a_ping_is_answered_again() -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    refused = await setup.ask_in_vain(session_id, why=Reason.UPSTREAM_REFUSED_BRIDGE)
    assert refused is Reason.UPSTREAM_REFUSED_BRIDGE
    assert await setup.ask_in_vain(session_id) is Reason.UPSTREAM_UNAVAILABLE  # not even when Flowless is gone
    setup.clock.advance(2)
    setup.renew()
    setup.clock.advance(3)
    assert isinstance(await setup.ask_in_vain(session_id), Verdict)


async def test_a_late_pong_does_not_turn_a_refusal_into_a_reason_to_serve() -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    asking = setup.ask_for(session_id)
    asked = await setup.upstream.question(2)
    asked.answer.set_exception(TrustError(Reason.UPSTREAM_REFUSED_BRIDGE, "refused"))
    await asyncio.sleep(0)  # upstream has said it, who asked does not know yet
    setup.lease.renew(setup.clock.elapsed_ns() - STALENESS_NS)  # of a ping so old that its lease is over
    assert setup.lease.ran_out_ns(setup.clock.elapsed_ns()) == 0
    assert await _outcome(asking) is Reason.UPSTREAM_REFUSED_BRIDGE


async def test_a_lease_that_was_dropped_or_never_held_gives_nothing() -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    setup.lease.drop()
    assert await setup.ask_in_vain(session_id) is Reason.UPSTREAM_UNAVAILABLE
    never = Granted()
    never.validator._lease = Lease(max_staleness_ns=STALENESS_NS)
    await never.fill(session_id)
    assert await never.ask_in_vain(session_id) is Reason.UPSTREAM_UNAVAILABLE


async def _at_once(asking: "asyncio.Task[Verdict]") -> Verdict | None:
    """Return the verdict that needs nobody, or `None` and give up."""
    for _ in range(20):
        await asyncio.sleep(0)
    if asking.done():
        return await asking
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return None


async def test_for_one_upstream_timeout_after_a_failure_granted_routes_do_not_wait_for_another() -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    await setup.ask_in_vain(session_id)
    setup.clock.advance(1.999)
    verdict = await _at_once(setup.ask_for(session_id))
    assert verdict is not None
    assert verdict.beyond_lease_ns == 2_999_000_000
    assert len(setup.upstream.asked) == 2
    assert await _at_once(setup.ask_for(session_id, "checkout")) is None  # asks, and waits
    setup.clock.advance(0.001)
    assert await _at_once(setup.ask_for(session_id)) is None
    assert len(setup.upstream.asked) == 4


async def test_an_answer_for_anybody_ends_the_time_in_which_granted_routes_do_not_wait() -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    await setup.ask_in_vain(session_id)
    asking = setup.ask(new_id())
    (await setup.upstream.question(3)).denied(DenialReason.UNKNOWN, revision=0)
    await asking
    assert await _at_once(setup.ask_for(session_id)) is None


async def test_a_replica_that_answers_and_only_lags_is_asked_each_time() -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    assert isinstance(await setup.ask_in_vain(session_id, why=Reason.REVISION_NOT_REACHED), Verdict)
    assert await _at_once(setup.ask_for(session_id)) is None


async def test_a_question_that_timed_out_counts_as_a_failure() -> None:
    session_id = new_id()
    setup = await _outage(session_id)
    setup.validator._limits = MissLimits(max_concurrent=2, max_waiting=2, upstream_timeout_seconds=0.02)
    assert isinstance(await _outcome(setup.ask_for(session_id)), Verdict)
    assert await _at_once(setup.ask_for(session_id)) is not None
    assert len(setup.upstream.asked) == 2


async def test_while_the_lease_is_held_a_grant_changes_nothing() -> None:
    setup, session_id = Granted(), new_id()
    await setup.fill(session_id)
    verdict = await setup.ask_for(session_id)
    assert (verdict.tier, verdict.beyond_lease_ns) == (Tier.LRU, None)
    setup.validator.observe_revision(1, log_id="log")
    assert await setup.ask_in_vain(session_id) is Reason.UPSTREAM_UNAVAILABLE
    assert setup.counted() == (0, 1)


@given(
    since_ping=st.floats(min_value=0, max_value=60),
    route=st.sampled_from(["", "catalogue", "search", "checkout"]),
    mode=st.sampled_from(ValidationMode),
    revoked=st.booleans(),
    written=st.booleans(),
)
def test_an_outage_is_answered_yes_only_as_far_as_the_lease_and_the_grant_reach(
    since_ping: float, route: str, mode: ValidationMode, revoked: bool, written: bool
) -> None:
    async def scenario() -> None:
        setup, session_id = Granted(), new_id()
        await setup.fill(session_id)
        if revoked:
            setup.cache.apply(Revocation(revision=1, session_digest=digest(session_id)))
        if written:
            setup.validator.observe_revision(2, log_id="log")
        setup.clock.advance(since_ping)
        asking = setup.ask_for(session_id, route, mode=mode)
        for _ in range(5):
            await asyncio.sleep(0)
        if len(setup.upstream.asked) == 2:
            setup.upstream.asked[1].answer.set_exception(TrustError(Reason.UPSTREAM_UNAVAILABLE, "away"))
        outcome = await _outcome(asking)
        passed_ns = round(since_ping * NS_PER_SECOND)
        granted_ns = {"catalogue": 30, "search": 10}.get(route, 0) * NS_PER_SECOND
        if mode is not ValidationMode.STANDARD:
            granted_ns = 0
        known = revoked or written
        assert isinstance(outcome, Verdict) == (passed_ns < STALENESS_NS + granted_ns and not known)
        if isinstance(outcome, Verdict):
            beyond = passed_ns - STALENESS_NS
            assert outcome.beyond_lease_ns == (beyond if beyond >= 0 else None)
            assert outcome.payload

    asyncio.run(scenario())


ELSEWHERE = RequestContext("198.51.100.9", BROWSER.device_fingerprint, BROWSER.user_agent)
ADMIN = Rule(name="admin", roles_any=frozenset(("admin",)), max_authentication_age_ns=60 * NS_PER_SECOND)
HIJACK = Rule(name="hijack", on_mismatch=OnMismatch.REVOKE)


class Ruled(Setup):
    """A validator whose routes have these rules."""

    def __init__(self) -> None:
        super().__init__()
        self.rules = {rule.name: rule for rule in (ADMIN, HIJACK)}

    async def verdict(self, session_id: str, route: str, **fields: Any) -> Verdict:
        """Ask, for a session that is cached."""
        return await asyncio.wait_for(self.ask(session_id, route=route, **fields), timeout=10)

    async def cache_one(self, **of_session: Any) -> str:
        """Have a session cached; returns its id."""
        session_id = new_id()
        asking = self.ask(session_id)
        (await self.upstream.question(len(self.upstream.asked) + 1)).active(revision=0, **of_session)
        await asking
        return session_id


@pytest.mark.parametrize(
    ("of_session", "denial"),
    [
        ({"roles": frozenset(("admin", "b"))}, 0),
        ({"roles": frozenset(("b",))}, DenialReason.ROLE_MISSING),
        ({}, DenialReason.ROLE_MISSING),
        ({"roles": frozenset(("admin",)), "authenticated_seconds_ago": 60}, 0),
        ({"roles": frozenset(("admin",)), "authenticated_seconds_ago": 60.1}, DenialReason.AUTHENTICATION_TOO_OLD),
    ],
)
async def test_a_rule_is_asked_of_a_hit_and_of_a_miss_alike(of_session: dict[str, Any], denial: int) -> None:
    setup, session_id = Ruled(), new_id()
    asking = setup.ask(session_id, route="admin")
    (await setup.upstream.question(1)).active(revision=0, **of_session)
    miss = await asking
    hit = await setup.verdict(session_id, "admin")
    assert (miss.denial, hit.denial) == (denial, denial)
    assert (miss.payload, hit.payload) == ((b"", b"") if denial else (b"payload", b"payload"))
    assert (miss.tier, hit.tier) == (Tier.DATABASE, Tier.LRU)
    assert not (await setup.verdict(session_id, "")).denial


async def test_the_proof_grows_old_in_the_cache() -> None:
    setup = Ruled()
    session_id = await setup.cache_one(roles=frozenset(("admin",)), authenticated_seconds_ago=58.5)
    setup.clock.advance(1.5)
    assert not (await setup.verdict(session_id, "admin")).denial
    setup.clock.advance(0.000_000_001)
    assert (await setup.verdict(session_id, "admin")).denial == DenialReason.AUTHENTICATION_TOO_OLD


async def test_time_on_the_way_makes_the_proof_older_and_never_younger() -> None:
    setup, session_id = Ruled(), new_id()
    asking = setup.ask(session_id, route="admin")
    question = await setup.upstream.question(1)
    setup.clock.advance(1)
    question.active(revision=0, roles=frozenset(("admin",)), authenticated_seconds_ago=59.5)
    assert (await asking).denial == DenialReason.AUTHENTICATION_TOO_OLD


async def test_the_context_goes_before_what_the_rule_asks_of_the_session() -> None:
    setup = Ruled()
    session_id = await setup.cache_one()
    assert (await setup.verdict(session_id, "admin", context=ELSEWHERE)).denial == DenialReason.IP_MISMATCH


async def test_the_rules_prefix_says_how_much_of_the_address_is_compared() -> None:
    setup = Ruled()
    setup.rules["wide"] = Rule(name="wide", ip_prefixes=IpPrefixes(v4=1, v6=1))
    session_id = await setup.cache_one()
    assert not (await setup.verdict(session_id, "wide", context=ELSEWHERE)).denial
    assert (await setup.verdict(session_id, "", context=ELSEWHERE)).denial == DenialReason.IP_MISMATCH


async def test_a_mismatch_is_reported_before_it_is_answered_where_the_rule_says_so() -> None:
    setup = Ruled()
    session_id = await setup.cache_one()
    setup.upstream.report_revision = 7
    verdict = await setup.verdict(session_id, "hijack", context=ELSEWHERE)
    assert verdict.denial == DenialReason.IP_MISMATCH
    assert setup.upstream.reports == [(session_id, ValidationMode.STRICT, ELSEWHERE, HIJACK)]
    # What this sidecar had revoked it does not answer from memory.
    asking = setup.ask(session_id)
    question = await setup.upstream.question(2)
    assert question.min_revision == 7
    question.denied(DenialReason.REVOKED, revision=7)
    assert (await asking).denial == DenialReason.REVOKED


async def test_a_mismatch_is_not_reported_where_no_rule_says_so() -> None:
    setup = Ruled()
    session_id = await setup.cache_one()
    for route in ("", "admin"):
        assert (await setup.verdict(session_id, route, context=ELSEWHERE)).denial == DenialReason.IP_MISMATCH
    assert setup.upstream.reports == []


async def test_what_is_missing_is_no_sign_of_theft() -> None:
    setup = Ruled()
    session_id = await setup.cache_one()
    for context in (RequestContext(), RequestContext(BROWSER.client_ip), RequestContext(BROWSER.client_ip, "device")):
        verdict = await setup.verdict(session_id, "hijack", context=context)
        assert verdict.denial == DenialReason.CONTEXT_MISSING
    assert not (await setup.verdict(session_id, "hijack")).denial
    assert setup.upstream.reports == []


async def test_a_mismatch_is_denied_although_it_cannot_be_reported() -> None:
    setup = Ruled()
    session_id = await setup.cache_one()
    setup.upstream.report_error = TrustError(Reason.UPSTREAM_UNAVAILABLE, "away")
    assert (await setup.verdict(session_id, "hijack", context=ELSEWHERE)).denial == DenialReason.IP_MISMATCH
    assert not (await setup.verdict(session_id, "hijack")).denial


async def test_who_hangs_up_does_not_keep_a_mismatch_from_being_reported_and_many_share_one_report() -> None:
    setup = Ruled()
    session_id = await setup.cache_one()
    setup.upstream.reporting.clear()
    asking = [setup.ask(session_id, route="hijack", context=ELSEWHERE) for _ in range(5)]
    while not setup.upstream.reports:
        await asyncio.sleep(0)
    for task in asking[:4]:
        task.cancel()
    setup.upstream.reporting.set()
    assert (await asking[4]).denial == DenialReason.IP_MISMATCH
    assert len(setup.upstream.reports) == 1


async def test_reports_at_once_are_bounded_and_what_comes_on_top_is_denied_all_the_same() -> None:
    upstream = Upstream()
    upstream.reporting.clear()
    reporter = MismatchReporter(receiver=upstream, timeout_seconds=30)
    reports = [
        asyncio.create_task(reporter.report(new_id(), ValidationMode.STANDARD, ELSEWHERE, HIJACK)) for _ in range(64)
    ]
    while len(upstream.reports) < 64:
        await asyncio.sleep(0)
    assert await reporter.report(new_id(), ValidationMode.STANDARD, ELSEWHERE, HIJACK) == 0
    assert (reporter.reported, reporter.not_reported) == (0, 1)
    upstream.reporting.set()
    await asyncio.gather(*reports)
    await reporter.close()
    assert (reporter.reported, len(upstream.reports)) == (64, 64)
