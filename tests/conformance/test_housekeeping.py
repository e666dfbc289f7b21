"""What is due goes, a batch at a time and nothing else; whoever replays the log is told when rows are gone."""

import asyncio
from datetime import timedelta

import pytest

from flowless.domain.bridges import BridgeSecret
from flowless.ports.housekeeping import Due, Kind
from flowless.services.housekeeping import BATCH, Housekeeping, Retention, Round
from tests.support.clock import FakeClock
from tests.support.stores import HOUR, NOW, SECOND, Stores, fresh_digest, new_bridge
from trust_core.errors import Reason, TrustError

KEPT = Retention(sessions=HOUR, bridge_secrets=HOUR, log=HOUR, trust_tokens=HOUR, mail=HOUR, audit=HOUR, log_rows=3)


def housekeeping(stores: Stores, clock: FakeClock | None = None, **changes: object) -> Housekeeping:
    values = {"retention": KEPT, "interval_seconds": 0.01, "on_failure": lambda error: None, **changes}
    return Housekeeping(
        store=stores.housekeeping,
        clock=clock or FakeClock(NOW),
        jitter=lambda: 0.5,
        **values,  # type: ignore[arg-type]
    )


async def test_sessions_go_when_their_expiry_is_long_past_and_not_before(stores: Stores) -> None:
    user = await stores.add_user()
    ends = [NOW - HOUR - SECOND, NOW - HOUR, NOW - SECOND, NOW + HOUR]
    sessions = [await stores.add_session(user, expires_at=end) for end in ends]
    due = Due(kind=Kind.SESSIONS, before=NOW - HOUR)
    assert await stores.housekeeping.count(due) == 1
    assert await stores.housekeeping.delete_batch(due, limit=10) == 1
    assert [(await stores.sessions.read(s.digest)).session is not None for s in sessions] == [False, True, True, True]
    assert await stores.rows() == [], "no cache holds what is long expired, so nobody has to be told"


async def test_the_oldest_go_first_and_no_more_than_a_batch(stores: Stores) -> None:
    user = await stores.add_user()
    sessions = [await stores.add_session(user, expires_at=NOW - 2 * HOUR + n * SECOND) for n in (3, 1, 2)]
    due = Due(kind=Kind.SESSIONS, before=NOW)
    assert await stores.housekeeping.delete_batch(due, limit=2) == 2
    assert [(await stores.sessions.read(s.digest)).session is not None for s in sessions] == [True, False, False]
    assert [await stores.housekeeping.delete_batch(due, limit=2) for _ in range(2)] == [1, 0]


async def test_expired_secrets_go_and_live_ones_stay(stores: Stores) -> None:
    bridge = new_bridge("shop")
    await stores.bridges.add(bridge)
    fresh = BridgeSecret(digest=fresh_digest(), created_at=NOW + SECOND)
    await stores.bridges.add_secret(bridge.id, fresh, others_expire_at=NOW + 2 * SECOND)
    due = Due(kind=Kind.BRIDGE_SECRETS, before=NOW + HOUR)
    assert (await stores.housekeeping.count(due), await stores.housekeeping.delete_batch(due, limit=10)) == (1, 1)
    found = await stores.bridges.get(bridge.id)
    assert found is not None
    assert found.secrets == (fresh,)


async def _rows(stores: Stores, ages: list[timedelta]) -> None:
    user = await stores.add_user()
    for age in ages:
        await stores.sessions.revoke((await stores.add_session(user)).digest, now=NOW - age)


async def test_old_rows_of_the_log_go_from_the_beginning_without_a_gap(stores: Stores) -> None:
    # The clock of the third row's writer was behind: nothing after a young row goes.
    await _rows(stores, [3 * HOUR, 2 * HOUR, timedelta(0), 2 * HOUR, 2 * HOUR, 2 * HOUR])
    due = Due(kind=Kind.REVOCATIONS, before=NOW - HOUR, keep_rows=1)
    assert await stores.housekeeping.count(due) == 2
    assert await stores.housekeeping.delete_batch(due, limit=10) == 2
    head = await stores.log.head()
    assert (head.revision, head.compacted_through) == (6, 2)
    assert [row.revision for row in await stores.rows()] == [3, 4, 5, 6]
    assert await stores.housekeeping.delete_batch(due, limit=10) == 0


async def test_the_last_rows_are_kept_however_old(stores: Stores) -> None:
    await _rows(stores, [2 * HOUR] * 6)
    due = Due(kind=Kind.REVOCATIONS, before=NOW, keep_rows=4)
    assert (await stores.housekeeping.count(due), await stores.housekeeping.delete_batch(due, limit=10)) == (2, 2)
    assert (await stores.log.head()).compacted_through == 2
    await _rows(stores, [2 * HOUR])
    assert await stores.end() == 7, "revisions go on from the end, not from what is left"


async def test_a_round_deletes_what_it_counted_and_counts_it(stores: Stores) -> None:
    user = await stores.add_user()
    for _ in range(3):
        await stores.add_session(user, expires_at=NOW - 2 * HOUR)
    await _rows(stores, [2 * HOUR] * 5)
    keeping = housekeeping(stores)
    expected = dict.fromkeys(Kind, 0) | {Kind.SESSIONS: 3, Kind.REVOCATIONS: 2}
    assert await keeping.count() == expected
    assert await keeping.run_once() == Round(deleted=expected)
    assert keeping.deleted == expected
    assert await keeping.run_once() == Round(deleted=dict.fromkeys(Kind, 0))


async def test_whoever_replays_while_rows_go_misses_none_without_being_told(stores: Stores) -> None:
    await _rows(stores, [2 * HOUR] * 40)
    due = Due(kind=Kind.REVOCATIONS, before=NOW, keep_rows=0)

    async def compact() -> None:
        while await stores.housekeeping.delete_batch(due, limit=3):
            await asyncio.sleep(0)

    compacting = asyncio.ensure_future(compact())
    after = 0
    async with asyncio.timeout(30):
        while after < 40:
            rows = await stores.log.after(after, until=40, limit=5)
            if not rows or rows[0].revision != after + 1:
                head = await stores.log.head()
                assert head.compacted_through > after, "rows were missing and the head did not say so"
                after = head.compacted_through
                continue
            assert [row.revision for row in rows] == list(range(after + 1, after + 1 + len(rows)))
            after = rows[-1].revision
        await compacting
    assert (await stores.log.head()).compacted_through == 40


async def test_rounds_go_on_after_storage_failed(stores: Stores) -> None:
    failures: list[type[Exception]] = []
    keeping = housekeeping(stores, on_failure=lambda error: failures.append(type(error)))
    real = keeping._store.delete_batch

    async def failing(due: Due, *, limit: int) -> int | None:
        if len(failures) < 2:
            raise (TrustError(Reason.STORAGE_UNAVAILABLE, "down"), RuntimeError("unexpected"))[len(failures)]
        return None if keeping.rounds["skipped"] < 1 else await real(due, limit=limit)

    keeping._store.delete_batch = failing  # type: ignore[method-assign]
    running = asyncio.ensure_future(keeping.run())
    async with asyncio.timeout(30):
        while not keeping.rounds["done"]:
            await asyncio.sleep(0.01)
    running.cancel()
    assert failures == [TrustError, RuntimeError]
    assert (keeping.rounds["failed"], keeping.rounds["skipped"]) == (2, 1)


async def test_a_round_that_another_replica_interrupts_says_what_it_did_before(stores: Stores) -> None:
    keeping = housekeeping(stores)
    answers = iter([BATCH, None])

    async def interrupted(due: Due, *, limit: int) -> int | None:
        return next(answers)

    keeping._store.delete_batch = interrupted  # type: ignore[method-assign]
    found = await keeping.run_once()
    assert (found.others_at_it, found.deleted[Kind.SESSIONS]) == (True, BATCH)


async def test_one_replica_at_a_time_keeps_house(stores: Stores, request: pytest.FixtureRequest) -> None:
    if "postgres" not in request.node.name:
        return  # SQLite has one writer at a time
    user = await stores.add_user()
    for _ in range(20):
        await stores.add_session(user, expires_at=NOW - HOUR)
    due = Due(kind=Kind.SESSIONS, before=NOW)
    results = await asyncio.gather(*(stores.housekeeping.delete_batch(due, limit=5) for _ in range(12)))
    assert sum(rows or 0 for rows in results) <= 20
    assert None in results
