"""One order of revocations, whoever writes them: revisions are consecutive and become visible in order."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from flowless.domain.revocations import Revocation
from flowless.domain.users import Profile, UserStatus
from tests.support.stores import NOW, Stores, fresh_digest, new_bridge

WRITERS = 50


async def _revoked_sessions(stores: Stores, count: int) -> list[int]:
    user = await stores.add_user()
    return [await stores.sessions.revoke((await stores.add_session(user)).digest, now=NOW) for _ in range(count)]


async def test_a_new_log_is_empty_and_has_a_name_of_its_own(stores: Stores) -> None:
    head = await stores.log.head()
    assert (head.revision, head.compacted_through) == (0, 0)
    assert len(head.log_id) == 32
    assert await stores.log.after(0, until=100, limit=100) == []


async def test_revisions_begin_with_one_and_are_consecutive(stores: Stores) -> None:
    log_id = (await stores.log.head()).log_id
    assert await _revoked_sessions(stores, 5) == [1, 2, 3, 4, 5]
    head = await stores.log.head()
    assert (head.log_id, head.revision, head.compacted_through) == (log_id, 5, 0)


@pytest.mark.parametrize(
    ("after", "until", "limit", "expected"),
    [
        (0, 5, 100, [1, 2, 3, 4, 5]),
        (0, 5, 2, [1, 2]),
        (2, 4, 100, [3, 4]),
        (2, 100, 100, [3, 4, 5]),
        (4, 4, 100, []),
        (5, 9, 100, []),
        (4, 2, 100, []),
        (-(2**62), 2**62, 3, [1, 2, 3]),
    ],
)
async def test_rows_are_read_between_two_revisions_in_order(
    stores: Stores, after: int, until: int, limit: int, expected: list[int]
) -> None:
    await _revoked_sessions(stores, 5)
    rows = await stores.log.after(after, until=until, limit=limit)
    assert [row.revision for row in rows] == expected


async def test_each_row_names_its_subject_and_key(stores: Stores) -> None:
    user = await stores.add_user()
    session = await stores.add_session(user)
    bridge = new_bridge("shop")
    await stores.bridges.add(bridge)
    await stores.sessions.revoke(session.digest, now=NOW)
    await stores.sessions.revoke_user(user.id, except_handle="", now=NOW)
    await stores.bridges.revoke(bridge.id, now=NOW)
    assert await stores.rows() == [
        Revocation(revision=1, subject="session", key=session.digest.hex()),
        Revocation(revision=2, subject="user", key=user.id),
        Revocation(revision=3, subject="bridge", key=bridge.id),
    ]


async def test_listeners_hear_of_every_commit_that_wrote_the_log_and_of_no_other(stores: Stores) -> None:
    heard: list[str] = []
    stores.when_log_written(lambda: heard.append("written"))
    user = await stores.add_user()
    session = await stores.add_session(user)
    await stores.sessions.revoke(fresh_digest(), now=NOW)
    assert heard == []
    await stores.sessions.revoke(session.digest, now=NOW)
    await stores.sessions.revoke(session.digest, now=NOW)
    await stores.users.set_status(user.id, UserStatus.DISABLED, now=NOW)
    assert heard == ["written"] * 2


async def test_a_row_is_visible_when_its_listener_hears_of_it(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user())
    seen: list[asyncio.Task[int]] = []
    stores.when_log_written(lambda: seen.append(asyncio.ensure_future(stores.end())))
    revision = await stores.sessions.revoke(session.digest, now=NOW)
    assert await seen[0] == revision


async def _writers(stores: Stores) -> list[Callable[[], Coroutine[Any, Any, int | None]]]:
    """Fifty writers of every kind, each of which writes exactly one row."""

    async def update(user_id: str) -> int | None:
        result = await stores.users.update(user_id, Profile(name="new"), frozenset({"name"}), now=NOW)
        return None if result is None else result[1]

    async def one(number: int) -> Callable[[], Coroutine[Any, Any, int | None]]:
        user = await stores.add_user()
        session = await stores.add_session(user)
        return [
            lambda: stores.sessions.revoke(session.digest, now=NOW),
            lambda: stores.sessions.revoke_handle(session.handle, now=NOW),
            lambda: stores.sessions.revoke_user(user.id, except_handle=session.handle, now=NOW),
            lambda: stores.sessions.replace_digest(session.digest, expected_epoch=1, new=fresh_digest(), now=NOW),
            lambda: stores.users.set_status(user.id, UserStatus.DISABLED, now=NOW),
            lambda: stores.users.delete(user.id, now=NOW),
            lambda: update(user.id),
        ][number % 7]

    return [await one(number) for number in range(WRITERS)]


async def test_writers_at_once_get_consecutive_revisions_that_are_all_visible_in_order(stores: Stores) -> None:
    writers = await _writers(stores)
    random.Random(7).shuffle(writers)
    ends: list[int] = []

    async def watch() -> None:
        """Read as a replica does: what is visible never has a gap and never shrinks."""
        while not ends or ends[-1] < WRITERS:
            head = await stores.log.head()
            rows = await stores.log.after(0, until=head.revision, limit=WRITERS + 1)
            assert [row.revision for row in rows] == list(range(1, head.revision + 1))
            ends.append(head.revision)

    async with asyncio.timeout(30):
        watching = asyncio.ensure_future(watch())
        revisions = await asyncio.gather(*(writer() for writer in writers))
        await watching
    assert sorted(r for r in revisions if r is not None) == list(range(1, WRITERS + 1))
    assert ends == sorted(ends)


async def test_an_answer_is_read_in_one_snapshot_with_its_revision(stores: Stores) -> None:
    """Whoever sees the session live at revision R was told so before the revocation at R + 1, never after."""
    user = await stores.add_user()
    sessions = [await stores.add_session(user) for _ in range(20)]
    revision_of: dict[bytes, int] = {}

    async def revoke() -> None:
        for session in sessions:
            revision_of[session.digest] = await stores.sessions.revoke(session.digest, now=NOW)

    async with asyncio.timeout(30):
        revoking = asyncio.ensure_future(revoke())
        reads = []
        while not revoking.done():
            reads += await asyncio.gather(*(stores.sessions.read(session.digest) for session in sessions))
        await revoking
    assert reads
    for read in reads:
        assert read.session is not None
        assert (read.session.revoked_at is not None) == (read.revision >= revision_of[read.session.digest])


async def test_a_write_goes_on_to_its_end_when_its_caller_is_cancelled(stores: Stores) -> None:
    user = await stores.add_user()
    sessions = [await stores.add_session(user) for _ in range(10)]
    callers = [asyncio.ensure_future(stores.sessions.revoke(s.digest, now=NOW)) for s in sessions]
    await asyncio.sleep(0)  # every write has begun, none has ended
    for caller in callers:
        caller.cancel()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    async with asyncio.timeout(30):
        while await stores.end() < 10:
            await asyncio.sleep(0.01)
    assert [await stores.is_live(session) for session in sessions] == [False] * 10
    assert await stores.end() == 10


async def test_work_that_fails_in_the_middle_leaves_neither_effect_nor_row(stores: Stores) -> None:
    """The unique name is found taken after the effect was written: the whole transaction goes back."""
    await stores.add_user(user_name="taken")
    user = await stores.add_user(user_name="ada")
    results = await asyncio.gather(
        *(
            stores.users.update(user.id, Profile(user_name="TAKEN"), frozenset({"user_name"}), now=NOW)
            for _ in range(5)
        ),
        return_exceptions=True,
    )
    assert all(isinstance(result, Exception) for result in results)
    assert await stores.rows() == []
    assert await _revoked_sessions(stores, 1) == [1]
