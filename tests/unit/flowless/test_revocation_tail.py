"""The tail's two promises, on which every sidecar's lease stands: proof is never older than the question, and a
subscription gets every row in order or is closed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from flowless.domain.revocations import Revocation
from flowless.services.revocation_tail import PAGE, Asked, GoAway, Item, Pong, RevocationTail, Subscription
from tests.support.clock import FakeClock
from tests.support.scripted_log import ScriptedLog
from trust_core.errors import Reason, TrustError

T = TypeVar("T")

NEVER = 3_600.0
"""A polling interval that no test waits for: only wake-ups make the tail read."""
SOON = 0.005
ENOUGH = 20.0
BRIDGE = "0123456789abcdef"


async def _soon(work: Awaitable[T]) -> T:
    async with asyncio.timeout(ENOUGH):
        return await work


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(ENOUGH):
        while not condition():
            await asyncio.sleep(0)


async def _settle() -> None:
    """Let everything that can run without time passing run."""
    for _ in range(20):
        await asyncio.sleep(0)


def _tail(log: ScriptedLog, *, clock: FakeClock | None = None, **options: Any) -> RevocationTail:
    values: dict[str, Any] = {
        "membership": Membership(),
        "poll_interval": NEVER,
        "min_spacing": 0.0,
        "max_subscriptions": 100,
        "max_subscriptions_per_bridge": 100,
    } | options
    return RevocationTail(log=log, clock=clock or FakeClock(), **values)


class Membership:
    """A place in the table of replicas: what the tail told it, and what joining does."""

    def __init__(self, *, on_join: Callable[[], None] = lambda: None) -> None:
        self.asked = 0
        self.joined = 0
        self.started_over = 0
        self._on_join = on_join

    async def join(self) -> None:
        self.joined += 1
        self._on_join()

    def on_read(self, *, revision: int, barrier_revision: int) -> bool:
        news = min(revision, barrier_revision) > self.asked
        self.asked = max(self.asked, min(revision, barrier_revision))
        return news

    def start_over(self) -> None:
        self.started_over += 1


@asynccontextmanager
async def _running(log: ScriptedLog, **options: Any) -> AsyncIterator[RevocationTail]:
    tail = _tail(log, **options)
    await tail.start()
    task = asyncio.create_task(tail.run())
    try:
        yield tail
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def log() -> ScriptedLog:
    return ScriptedLog()


def _revisions(items: list[Item]) -> list[int]:
    assert all(isinstance(item, Revocation) for item in items)
    return [item.revision for item in items if isinstance(item, Revocation)]


async def _closed_with(subscription: Subscription) -> Reason:
    with pytest.raises(TrustError) as caught:
        await _soon(subscription.take())
    return caught.value.reason


# --- proof of freshness -----------------------------------------------------------------------------------------


async def test_a_caller_gets_the_logs_end(log: ScriptedLog) -> None:
    async with _running(log) as tail:
        for rows in (1, 5):
            expected = log.append(count=rows)
            head = await _soon(tail.read_after_now())
            assert (head.revision, head.log_id) == (expected, "log-1")
            assert tail.position == head


async def test_a_read_that_began_before_the_call_is_no_proof(log: ScriptedLog) -> None:
    async with _running(log) as tail:
        log.hold()
        first = asyncio.ensure_future(tail.read_after_now())
        await _until(lambda: log.begun == 2)
        revision = log.append()
        second = asyncio.ensure_future(tail.read_after_now())
        await _settle()
        log.release()
        assert (await _soon(first)).revision == revision - 1
        assert (await _soon(second)).revision == revision
        assert log.begun == 3


async def test_the_second_promise_holds_however_often_reads_overlap(log: ScriptedLog) -> None:
    async with _running(log) as tail:
        for _ in range(50):
            log.hold()
            tail.wake()
            begun = log.begun
            await _until(lambda before=begun: log.begun > before)  # type: ignore[misc]
            revision = log.append()
            caller = asyncio.ensure_future(tail.read_after_now())
            await asyncio.sleep(0)
            log.release()
            assert (await _soon(caller)).revision == revision


async def test_every_row_is_in_every_subscription_before_the_caller_is_answered(log: ScriptedLog) -> None:
    async with _running(log) as tail:
        subscriptions = [tail.subscribe(bridge_id=BRIDGE) for _ in range(3)]
        for round_ in range(20):
            revision = log.append()
            head = await _soon(tail.read_after_now())
            assert head.revision == revision
            for subscription in subscriptions:
                subscription.put(Pong(round_, head.revision))
                items = await subscription.take()
                assert [type(item) for item in items] == [Revocation, Pong]


async def test_many_callers_at_once_share_a_read(log: ScriptedLog) -> None:
    async with _running(log) as tail:
        before = tail.reads
        heads = await _soon(asyncio.gather(*(tail.read_after_now() for _ in range(1_000))))
        assert {head.revision for head in heads} == {0}
        assert tail.reads - before == 1


async def test_callers_that_come_during_a_read_share_the_next(log: ScriptedLog) -> None:
    async with _running(log) as tail:
        log.hold()
        callers = [asyncio.ensure_future(tail.read_after_now())]
        await _until(lambda: log.begun == 2)
        for _ in range(500):
            callers.append(asyncio.ensure_future(tail.read_after_now()))
            await asyncio.sleep(0)
        log.release()
        await _soon(asyncio.gather(*callers))
        assert log.begun == 3


async def test_reads_keep_their_distance(log: ScriptedLog) -> None:
    clock = FakeClock()
    async with _running(log, clock=clock, min_spacing=60.0) as tail:
        caller = asyncio.ensure_future(tail.read_after_now())
        await _settle()
        assert (log.begun, caller.done()) == (1, False)
        caller.cancel()
    async with _running(log, clock=clock, min_spacing=60.0) as tail:
        await _settle()
        begun = log.begun
        clock.advance(60)
        caller = asyncio.ensure_future(tail.read_after_now())
        await _soon(caller)
        assert log.begun == begun + 1


async def test_a_caller_that_gave_up_is_forgotten(log: ScriptedLog) -> None:
    async with _running(log) as tail:
        log.hold()
        tail.wake()
        await _until(lambda: log.begun == 2)
        callers = [asyncio.ensure_future(tail.read_after_now()) for _ in range(3)]
        await _settle()
        for caller in callers[:2]:
            caller.cancel()
        await _settle()
        assert len(tail._waiters) == 1
        log.release()
        await _soon(callers[2])


async def test_without_a_wake_up_the_log_is_polled(log: ScriptedLog) -> None:
    async with _running(log, poll_interval=SOON) as tail:
        subscription = tail.subscribe(bridge_id=BRIDGE)
        log.append(count=3)
        assert _revisions(await _soon(subscription.take())) == [1, 2, 3]


# --- subscriptions ----------------------------------------------------------------------------------------------


async def test_a_subscription_gets_what_comes_after_its_start_and_nothing_before(log: ScriptedLog) -> None:
    log.append(count=5)
    async with _running(log) as tail:
        subscription = tail.subscribe(bridge_id=BRIDGE)
        assert subscription.start.revision == 5
        log.append(count=2)
        await _soon(tail.read_after_now())
        assert _revisions(await subscription.take()) == [6, 7]


async def test_very_many_rows_arrive_in_order_a_page_at_a_time(log: ScriptedLog) -> None:
    async with _running(log) as tail:
        subscription = tail.subscribe(bridge_id=BRIDGE)
        log.append(count=2 * PAGE + 1)
        await _soon(tail.read_after_now())
        pages = [_revisions(await _soon(subscription.take())) for _ in range(3)]
        assert [len(page) for page in pages] == [PAGE, PAGE, 1]
        assert [revision for page in pages for revision in page] == list(range(1, 2 * PAGE + 2))


async def test_taking_waits_until_there_is_something(log: ScriptedLog) -> None:
    async with _running(log) as tail:
        subscription = tail.subscribe(bridge_id=BRIDGE)
        taking = asyncio.ensure_future(subscription.take())
        await _settle()
        assert not taking.done()
        log.append()
        tail.wake()
        assert _revisions(await _soon(taking)) == [1]


async def test_a_watcher_that_falls_behind_is_closed_and_the_others_go_on(log: ScriptedLog) -> None:
    async with _running(log, max_backlog=3) as tail:
        slow, fast = tail.subscribe(bridge_id=BRIDGE), tail.subscribe(bridge_id=BRIDGE)
        log.append(count=3)
        await _soon(tail.read_after_now())
        assert _revisions(await fast.take()) == [1, 2, 3]
        log.append()
        await _soon(tail.read_after_now())
        assert _revisions(await fast.take()) == [4]
        assert await _closed_with(slow) is Reason.DRAINING
        slow.put(Pong(1, 4))
        assert await _closed_with(slow) is Reason.DRAINING


async def test_what_a_closed_subscription_was_closed_with_first_stays(log: ScriptedLog) -> None:
    subscription = _tail(log).subscribe(bridge_id=BRIDGE)
    subscription.close(TrustError(Reason.INVALID_FIELD, "first"))
    subscription.close(TrustError(Reason.DRAINING, "second"))
    assert await _closed_with(subscription) is Reason.INVALID_FIELD


async def test_places_are_bounded_and_given_back(log: ScriptedLog) -> None:
    tail = _tail(log, max_subscriptions=2)
    first = tail.subscribe(bridge_id=BRIDGE)
    tail.subscribe(bridge_id=BRIDGE)
    with pytest.raises(TrustError) as caught:
        tail.subscribe(bridge_id=BRIDGE)
    assert caught.value.reason is Reason.TOO_MANY_CALLS
    for _ in range(2):
        tail.unsubscribe(first)
    assert tail.watchers == 1
    tail.subscribe(bridge_id=BRIDGE)


async def test_a_row_of_a_bridge_closes_that_bridges_subscriptions_alone(log: ScriptedLog) -> None:
    async with _running(log) as tail:
        closed = [tail.subscribe(bridge_id=BRIDGE) for _ in range(2)]
        kept = tail.subscribe(bridge_id="another")
        log.append("user", BRIDGE)  # a user's row with the same key concerns no bridge
        log.append("bridge", BRIDGE)
        log.append("session", "00")
        await _soon(tail.read_after_now())
        assert [await _closed_with(subscription) for subscription in closed] == [Reason.DRAINING] * 2
        assert _revisions(await kept.take()) == [1, 2, 3]


async def test_listeners_hear_of_a_row_before_any_watcher_and_before_the_caller(log: ScriptedLog) -> None:
    async with _running(log) as tail:
        subscription = tail.subscribe(bridge_id=BRIDGE)
        heard: list[tuple[int, bool]] = []
        tail.listen(lambda row: heard.append((row.revision, subscription._ready.is_set())))
        log.append()
        await _soon(tail.read_after_now())
        assert heard == [(1, False)]


# --- drain ------------------------------------------------------------------------------------------------------


async def test_a_drain_sends_everybody_away_after_what_they_were_to_be_told(log: ScriptedLog) -> None:
    async with _running(log) as tail:
        subscription = tail.subscribe(bridge_id=BRIDGE)
        log.append(count=2)
        await _soon(tail.read_after_now())
        tail.drain()
        items = await _soon(subscription.take())
        assert _revisions(items[:-1]) == [1, 2]
        assert isinstance(items[-1], GoAway)
        with pytest.raises(TrustError) as caught:
            tail.subscribe(bridge_id=BRIDGE)
        assert caught.value.reason is Reason.DRAINING


# --- a log that cannot be followed ------------------------------------------------------------------------------


def _replaced(log: ScriptedLog) -> None:
    log.log_id = "log-2"


def _restored_from_a_backup(log: ScriptedLog) -> None:
    log.cut(2)


def _compacted_beyond_the_position(log: ScriptedLog) -> None:
    log.append(count=10)
    log.compacted_through = 12


@pytest.mark.parametrize(
    "change",
    [_replaced, _restored_from_a_backup, _compacted_beyond_the_position],
    ids=lambda change: change.__name__.strip("_"),
)
async def test_when_the_log_cannot_be_followed_everybody_has_to_replay(
    log: ScriptedLog, change: Callable[[ScriptedLog], None]
) -> None:
    log.append(count=5)
    async with _running(log) as tail:
        subscriptions = [tail.subscribe(bridge_id=BRIDGE) for _ in range(3)]
        change(log)
        head = await _soon(tail.read_after_now())
        assert (head.log_id, head.revision) == (log.log_id, log.end)
        assert [await _closed_with(subscription) for subscription in subscriptions] == [Reason.DRAINING] * 3
        fresh = tail.subscribe(bridge_id=BRIDGE)
        assert fresh.start == head
        revision = log.append()
        await _soon(tail.read_after_now())
        assert _revisions(await fresh.take()) == [revision]


async def test_a_log_that_was_compacted_behind_the_position_is_followed(log: ScriptedLog) -> None:
    log.append(count=5)
    async with _running(log) as tail:
        subscription = tail.subscribe(bridge_id=BRIDGE)
        log.compacted_through = 5
        log.append()
        await _soon(tail.read_after_now())
        assert _revisions(await subscription.take()) == [6]


# --- storage that fails -----------------------------------------------------------------------------------------


async def test_storage_that_fails_answers_the_callers_and_is_tried_again(log: ScriptedLog) -> None:
    async with _running(log, poll_interval=SOON) as tail:
        subscription = tail.subscribe(bridge_id=BRIDGE)
        log.error = TrustError(Reason.STORAGE_UNAVAILABLE, "locked")
        for _ in range(2):
            results = await _soon(asyncio.gather(*(tail.read_after_now() for _ in range(5)), return_exceptions=True))
            reasons = {result.reason for result in results if isinstance(result, TrustError)}
            assert (len(results), reasons) == (5, {Reason.STORAGE_UNAVAILABLE})
            assert tail.failing
        revision = log.append()
        log.error = None
        assert (await _soon(tail.read_after_now())).revision == revision
        assert not tail.failing
        assert _revisions(await subscription.take()) == [revision]


async def test_a_tail_that_cannot_take_position_does_not_start(log: ScriptedLog) -> None:
    log.error = TrustError(Reason.STORAGE_UNAVAILABLE, "locked")
    with pytest.raises(TrustError):
        await _tail(log).start()


async def test_a_defect_ends_the_tail_and_leaves_no_caller_waiting(log: ScriptedLog) -> None:
    tail = _tail(log)
    await tail.start()
    running = asyncio.create_task(tail.run())
    log.error = ZeroDivisionError("defect")
    with pytest.raises(TrustError) as caught:
        await _soon(tail.read_after_now())
    assert caught.value.reason is Reason.STORAGE_UNAVAILABLE
    with pytest.raises(ZeroDivisionError):
        await _soon(running)


async def test_a_read_by_a_replica_that_others_do_not_know_of_vouches_for_nothing_until_it_is_known(
    log: ScriptedLog,
) -> None:
    """Who waits for all sidecars would not wait for those that got their lease by it."""

    def known() -> None:
        log.member = True

    membership = Membership(on_join=known)
    async with _running(log, membership=membership) as tail:
        log.member = False
        log.append()
        assert (await _soon(tail.read_after_now())).revision == 1
        assert membership.joined == 1
        assert log.begun == 3  # at the start, without being known, and again


async def test_a_replica_that_cannot_become_known_gives_no_proof_and_keeps_its_position(log: ScriptedLog) -> None:
    membership = Membership()
    async with _running(log, membership=membership, poll_interval=SOON) as tail:
        log.member = False
        log.append()
        with pytest.raises(TrustError) as caught:
            await _soon(tail.read_after_now())
        assert caught.value.reason is Reason.STORAGE_UNAVAILABLE
        assert tail.position.revision == 0
        log.member = True
        await _until(lambda: tail.position.revision == 1)


async def test_watchers_are_asked_behind_the_rows_that_somebody_waits_for_and_once(log: ScriptedLog) -> None:
    async with _running(log) as tail:
        subscription = tail.subscribe(bridge_id=BRIDGE)
        log.append(count=2)
        log.barrier_revision = 2
        await _soon(tail.read_after_now())
        await _soon(tail.read_after_now())
        items = await _soon(subscription.take())
        assert _revisions(items[:2]) == [1, 2]
        assert items[2:] == [Asked(2)]


async def test_another_log_makes_membership_forget_its_revisions(log: ScriptedLog) -> None:
    membership = Membership()
    async with _running(log, membership=membership) as tail:
        log.log_id = "log-2"
        await _soon(tail.read_after_now())
        assert membership.started_over == 1


async def test_the_first_read_of_a_replica_that_nobody_knows_of_says_nothing_of_how_fresh_it_is(
    log: ScriptedLog,
) -> None:
    log.member = False
    clock = FakeClock()
    tail = _tail(log, clock=clock)
    await tail.start()
    assert clock.elapsed_ns() - tail.read_began_ns > 2**62
