"""What every store of sessions does."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from flowless.domain.sessions import Session, SessionActivity
from flowless.domain.users import UserStatus
from tests.support.stores import HASH, HOUR, NOW, SECOND, Stores, fresh_digest, new_session, new_user
from trust_core.errors import Reason, TrustError
from trust_core.modes import Binding

UserChange = Callable[[Stores, str], Coroutine[Any, Any, object]]


async def _change_password(stores: Stores, user_id: str) -> None:
    await stores.users.set_password(user_id, expected_hash=HASH, new_hash="new", now=NOW)


async def _upgrade_hash(stores: Stores, user_id: str) -> None:
    await stores.users.upgrade_hash(user_id, expected_hash=HASH, new_hash="better")


async def _disable(stores: Stores, user_id: str) -> None:
    await stores.users.set_status(user_id, UserStatus.DISABLED, now=NOW)


async def _disable_and_enable(stores: Stores, user_id: str) -> None:
    await _disable(stores, user_id)
    await stores.users.set_status(user_id, UserStatus.ACTIVE, now=NOW)


async def _revoke_all(stores: Stores, user_id: str) -> None:
    await stores.sessions.revoke_user(user_id, except_handle="", now=NOW)


async def _delete(stores: Stores, user_id: str) -> None:
    await stores.users.delete(user_id, now=NOW)


async def _revoke_all_but(stores: Stores, session: Session, user_id: str = "") -> tuple[int, list[tuple[str, str]]]:
    revoked = stores.sessions.revoke_user(user_id or session.user_id, except_handle=session.handle, now=NOW)
    revision, rows = await stores.written_by(revoked)
    return int(revision), rows


# --- adding and reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"binding": Binding(), "device_name": "", "methods": (), "bridge_id": ""},
        {"binding": Binding(client_ip=bytes(16), key=b"\0" * 32), "device_name": "Ünïcode ☎ '\";--"},
        {"last_seen_at": NOW + timedelta(microseconds=1), "expires_at": NOW + timedelta(microseconds=2)},
    ],
)
async def test_a_session_is_read_as_it_was_added_with_its_user(stores: Stores, changes: dict[str, Any]) -> None:
    user = await stores.add_user()
    session = await stores.add_session(user, **changes)
    read = await stores.sessions.read(session.digest)
    assert read.session == session
    assert read.user == user
    assert read.user_epoch == session.epoch
    assert read.revision == await stores.end()


async def test_a_login_answers_the_logs_end_and_writes_no_row(stores: Stores) -> None:
    user = await stores.add_user()
    await stores.sessions.revoke_user(user.id, except_handle="", now=NOW)
    added, rows = await stores.written_by(stores.sessions.add(new_session(user.id, epoch=2), expected_hash=HASH))
    assert added is not None
    assert (added.id_revision, rows) == (await stores.end(), [])


@pytest.mark.parametrize("digest", [fresh_digest(), b"", b"\0" * 32, b"x" * 1000])
async def test_a_digest_that_no_session_has_reads_the_logs_end_alone(stores: Stores, digest: bytes) -> None:
    session = await stores.add_session(await stores.add_user())
    revision = await stores.sessions.revoke(session.digest, now=NOW)
    read = await stores.sessions.read(digest)
    assert (read.session, read.user, read.revision) == (None, None, revision)


@pytest.mark.parametrize(
    "change",
    [_change_password, _upgrade_hash, _disable, _disable_and_enable, _revoke_all, _delete],
    ids=lambda change: change.__name__.strip("_"),
)
async def test_a_login_loses_the_race_against_a_change_of_its_user(stores: Stores, change: UserChange) -> None:
    user = await stores.add_user()
    session = new_session(user.id)
    await change(stores, user.id)
    assert await stores.sessions.add(session, expected_hash=HASH) is None
    assert (await stores.sessions.read(session.digest)).session is None


async def test_a_login_of_nobody_is_refused(stores: Stores) -> None:
    assert await stores.sessions.add(new_session(new_user().id), expected_hash=HASH) is None


async def test_no_login_that_raced_a_revocation_of_all_sessions_outlives_it(stores: Stores) -> None:
    user = await stores.add_user()
    sessions = [new_session(user.id) for _ in range(10)]
    adding = [stores.sessions.add(session, expected_hash=HASH) for session in sessions]
    revoking = stores.sessions.revoke_user(user.id, except_handle="", now=NOW)
    await asyncio.gather(*adding[:5], revoking, *adding[5:])
    assert [await stores.is_live(session) for session in sessions] == [False] * 10


@pytest.mark.parametrize("same", ["digest", "handle"])
async def test_an_identifier_that_is_taken_is_a_conflict_and_no_drivers_exception(stores: Stores, same: str) -> None:
    user = await stores.add_user()
    first = await stores.add_session(user)
    second = replace(new_session(user.id), **{same: getattr(first, same)})
    with pytest.raises(TrustError) as caught:
        await stores.sessions.add(second, expected_hash=HASH)
    assert caught.value.reason is Reason.CONFLICT
    assert (await stores.sessions.read(first.digest)).session == first


# --- revoking one -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["digest", "handle"])
async def test_a_revoke_ends_one_session_and_writes_one_row(stores: Stores, by: str) -> None:
    user = await stores.add_user()
    session, other = await stores.add_session(user), await stores.add_session(user)
    later = NOW + SECOND
    revoke = (
        stores.sessions.revoke(session.digest, now=later)
        if by == "digest"
        else stores.sessions.revoke_handle(session.handle, now=later)
    )
    revision, rows = await stores.written_by(revoke)
    assert rows == [("session", session.digest.hex())]
    assert revision == await stores.end()
    read = await stores.sessions.read(session.digest)
    assert read.session is not None
    assert (read.session.revoked_at, read.revision) == (later, revision)
    assert await stores.is_live(other)


async def test_a_session_that_is_revoked_again_keeps_its_moment_and_writes_no_row(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user())
    first = await stores.sessions.revoke(session.digest, now=NOW)
    assert await stores.written_by(stores.sessions.revoke(session.digest, now=NOW + SECOND)) == (first, [])
    assert await stores.written_by(stores.sessions.revoke_handle(session.handle, now=NOW + SECOND)) == (first, [])
    read = await stores.sessions.read(session.digest)
    assert read.session is not None
    assert read.session.revoked_at == NOW


async def test_a_revoke_of_what_does_not_exist_answers_the_logs_end(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user())
    end = await stores.sessions.revoke(session.digest, now=NOW)
    for revoke in (
        stores.sessions.revoke(fresh_digest(), now=NOW),
        stores.sessions.revoke_handle("sh_nobody", now=NOW),
        stores.sessions.revoke_handle("", now=NOW),
        stores.sessions.revoke_handle("%", now=NOW),
        stores.sessions.revoke_user("usr_nobody", except_handle="", now=NOW),
    ):
        assert await stores.written_by(revoke) == (end, [])


async def test_of_many_who_revoke_one_session_at_once_one_writes_the_row_and_all_get_its_revision(
    stores: Stores,
) -> None:
    session = await stores.add_session(await stores.add_user())
    revisions = await asyncio.gather(*(stores.sessions.revoke(session.digest, now=NOW) for _ in range(8)))
    assert set(revisions) == {1}
    assert len(await stores.rows()) == 1


# --- revoking all of a user's -----------------------------------------------------------------------------------


async def test_revoking_all_of_a_users_sessions_is_one_row_whatever_their_number(stores: Stores) -> None:
    user = await stores.add_user()
    sessions = [await stores.add_session(user) for _ in range(5)]
    other = await stores.add_session(await stores.add_user())
    revision, rows = await stores.written_by(stores.sessions.revoke_user(user.id, except_handle="", now=NOW))
    assert rows == [("user", user.id)]
    assert revision == await stores.end()
    assert [await stores.is_live(session) for session in sessions] == [False] * 5
    assert await stores.is_live(other)


async def test_the_exception_stays_and_later_logins_work(stores: Stores) -> None:
    user = await stores.add_user()
    kept, lost = await stores.add_session(user), await stores.add_session(user)
    _, rows = await _revoke_all_but(stores, kept)
    assert rows == [("user", user.id)]
    later = await stores.add_session(user)
    assert [await stores.is_live(s) for s in (kept, lost, later)] == [True, False, True]


async def test_an_exception_that_was_revoked_earlier_stays_revoked(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user())
    await stores.sessions.revoke(session.digest, now=NOW)
    await _revoke_all_but(stores, session)
    assert not await stores.is_live(session)


async def test_an_exception_of_an_epoch_before_stays_revoked(stores: Stores) -> None:
    user = await stores.add_user()
    session = await stores.add_session(user)
    await stores.sessions.revoke_user(user.id, except_handle="", now=NOW)
    for _ in range(3):
        await _revoke_all_but(stores, session)
        assert not await stores.is_live(session)


async def test_an_exception_that_belongs_to_another_user_changes_nothing_for_it(stores: Stores) -> None:
    user, other = await stores.add_user(), await stores.add_user()
    mine, foreign = await stores.add_session(user), await stores.add_session(other)
    await _revoke_all_but(stores, foreign, user.id)
    assert not await stores.is_live(mine)
    assert await stores.is_live(foreign)
    read = await stores.sessions.read(foreign.digest)
    assert read.session == foreign


async def test_an_exception_can_be_kept_many_times(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user())
    for expected in (1, 2, 3):
        revision, _ = await _revoke_all_but(stores, session)
        assert revision == expected
        assert await stores.is_live(session)


# --- rotating ---------------------------------------------------------------------------------------------------


async def test_a_rotated_session_lives_on_under_the_new_digest_alone(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user())
    fresh = fresh_digest()
    revision, rows = await stores.written_by(
        stores.sessions.replace_digest(session.digest, expected_epoch=1, new=fresh, now=NOW)
    )
    assert rows == [("session", session.digest.hex())]
    assert revision == await stores.end()
    assert (await stores.sessions.read(session.digest)).session is None
    assert (await stores.sessions.read(fresh)).session == replace(session, digest=fresh, id_revision=revision)


async def test_of_many_who_rotate_one_session_at_once_exactly_one_wins(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user())
    fresh = [fresh_digest() for _ in range(8)]
    results = await asyncio.gather(
        *(stores.sessions.replace_digest(session.digest, expected_epoch=1, new=f, now=NOW) for f in fresh)
    )
    winners = [f for f, result in zip(fresh, results, strict=True) if result is not None]
    alive = [f for f in fresh if (await stores.sessions.read(f)).session is not None]
    assert len(winners) == 1
    assert alive == winners


async def test_a_session_that_is_not_live_cannot_be_rotated(stores: Stores) -> None:
    async def rotate(session: Session) -> int | None:
        digest = fresh_digest()
        result = await stores.sessions.replace_digest(session.digest, expected_epoch=1, new=digest, now=NOW)
        assert (await stores.sessions.read(digest)).session is None
        return result

    unknown = new_session(new_user().id)
    revoked = await stores.add_session(await stores.add_user())
    await stores.sessions.revoke(revoked.digest, now=NOW)
    of_disabled = await stores.add_session(await stores.add_user())
    await stores.users.set_status(of_disabled.user_id, UserStatus.DISABLED, now=NOW)
    of_epoch_before = await stores.add_session(await stores.add_user())
    await stores.sessions.revoke_user(of_epoch_before.user_id, except_handle="", now=NOW)
    of_deleted = await stores.add_session(await stores.add_user())
    await stores.users.delete(of_deleted.user_id, now=NOW)
    expired = await stores.add_session(await stores.add_user(), expires_at=NOW)
    end = await stores.end()
    for session in (unknown, revoked, of_disabled, of_epoch_before, of_deleted, expired):
        assert await rotate(session) is None
    assert await stores.end() == end


async def test_a_session_kept_as_an_exception_is_not_rotated_by_who_read_it_before(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user())
    await _revoke_all_but(stores, session)
    rotated = stores.sessions.replace_digest(session.digest, expected_epoch=1, new=fresh_digest(), now=NOW)
    assert await rotated is None
    assert await stores.is_live(session)


async def test_a_rotation_to_a_digest_that_is_taken_is_a_conflict_and_changes_nothing(stores: Stores) -> None:
    user = await stores.add_user()
    first, second = await stores.add_session(user), await stores.add_session(user)
    with pytest.raises(TrustError) as caught:
        await stores.sessions.replace_digest(first.digest, expected_epoch=1, new=second.digest, now=NOW)
    assert caught.value.reason is Reason.CONFLICT
    assert await stores.end() == 0
    assert await stores.is_live(first)
    assert await stores.is_live(second)


# --- listing ----------------------------------------------------------------------------------------------------


async def _list(
    stores: Stores, user_id: str, *, before: Session | None = None, limit: int = 100, **times: Any
) -> list[Session]:
    position = None if before is None else (before.created_at, before.handle)
    moments = {"now": NOW, "seen_after": NOW - HOUR} | times
    return list(await stores.sessions.list_live(user_id, before=position, limit=limit, **moments))


async def test_live_sessions_are_listed_newest_first(stores: Stores) -> None:
    user = await stores.add_user()
    sessions = [await stores.add_session(user, created_at=NOW + n * SECOND) for n in (2, 0, 1)]
    await stores.add_session(await stores.add_user())
    assert await _list(stores, user.id) == sorted(sessions, key=lambda s: s.created_at, reverse=True)
    assert await _list(stores, "usr_nobody") == []


async def test_pages_lose_and_repeat_no_session_even_when_all_were_created_at_once(stores: Stores) -> None:
    user = await stores.add_user()
    sessions = {(await stores.add_session(user, created_at=NOW + (n // 4) * SECOND)).handle for n in range(10)}
    seen: list[Session] = []
    while page := await _list(stores, user.id, before=seen[-1] if seen else None, limit=3):
        seen += page
    assert [s.handle for s in seen] == sorted(sessions, key=[s.handle for s in seen].index)
    assert len(seen) == 10
    assert [s.created_at for s in seen] == sorted((s.created_at for s in seen), reverse=True)


async def test_sessions_that_are_not_live_are_not_listed(stores: Stores) -> None:
    user = await stores.add_user()
    before_epoch = await stores.add_session(user)
    live = await stores.add_session(user)
    await _revoke_all_but(stores, live)
    revoked = await stores.add_session(user)
    await stores.sessions.revoke(revoked.digest, now=NOW)
    await stores.add_session(user, expires_at=NOW)
    await stores.add_session(user, last_seen_at=NOW - HOUR)
    almost = await stores.add_session(
        user,
        expires_at=NOW + timedelta(microseconds=1),
        last_seen_at=NOW - HOUR + timedelta(microseconds=1),
        created_at=NOW - SECOND,
    )
    found = await _list(stores, user.id)
    assert [s.handle for s in found] == [live.handle, almost.handle]
    assert before_epoch.handle not in {s.handle for s in found}


async def test_a_disabled_user_has_no_live_sessions(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user())
    await stores.users.set_status(session.user_id, UserStatus.DISABLED, now=NOW)
    assert await _list(stores, session.user_id) == []


# --- touching ---------------------------------------------------------------------------------------------------

LATER = NOW + timedelta(minutes=10)
INTERVAL = timedelta(seconds=60)
OTHER_BRIDGE = "fedcba9876543210"
"""A bridge that uses sessions which another one made."""


async def _touch(stores: Stores, session: Session, *idle: timedelta, interval: timedelta = INTERVAL) -> Session:
    """Report use that long before `LATER` and read the session."""
    activities = [SessionActivity(digest=session.digest, idle_for=i) for i in idle]
    _, rows = await stores.written_by(
        stores.sessions.touch(
            activities, bridge_id=OTHER_BRIDGE, now=LATER, interval_seconds=interval.total_seconds()
        )
    )
    assert rows == []
    found = (await stores.sessions.read(session.digest)).session
    assert found is not None
    return found


async def test_use_moves_last_seen_to_the_moment_of_use(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user())
    touched = await _touch(stores, session, 5 * SECOND)
    assert touched == replace(session, last_seen_at=LATER - 5 * SECOND)


async def test_use_before_the_last_that_is_known_does_not_move_it_back(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user(), last_seen_at=LATER - 5 * SECOND)
    assert await _touch(stores, session, 10 * SECOND, interval=timedelta(0)) == session


@pytest.mark.parametrize(("since", "moves"), [(INTERVAL, True), (INTERVAL - timedelta(microseconds=1), False)])
async def test_use_is_written_once_an_interval(stores: Stores, since: timedelta, moves: bool) -> None:
    session = await stores.add_session(await stores.add_user(), last_seen_at=LATER - since)
    touched = await _touch(stores, session, timedelta(0))
    assert touched.last_seen_at == (LATER if moves else LATER - since)


async def test_of_several_uses_of_one_session_in_a_report_the_order_does_not_matter(stores: Stores) -> None:
    user = await stores.add_user()
    ascending, descending = await stores.add_session(user), await stores.add_session(user)
    none = timedelta(0)
    assert (await _touch(stores, ascending, none, 5 * SECOND, interval=none)).last_seen_at == LATER
    assert (await _touch(stores, descending, 5 * SECOND, none, interval=none)).last_seen_at == LATER


async def test_many_sessions_are_touched_at_once_and_unknown_ones_passed_over(stores: Stores) -> None:
    user = await stores.add_user()
    sessions = [await stores.add_session(user) for _ in range(3)]
    untouched = await stores.add_session(user)
    activities = [SessionActivity(digest=d, idle_for=SECOND) for d in (*(s.digest for s in sessions), fresh_digest())]
    await stores.sessions.touch(activities, bridge_id=OTHER_BRIDGE, now=LATER, interval_seconds=60)
    await stores.sessions.touch([], bridge_id=OTHER_BRIDGE, now=LATER, interval_seconds=60)
    reads = [await stores.sessions.read(s.digest) for s in (*sessions, untouched)]
    assert [r.session.last_seen_at for r in reads if r.session] == [LATER - SECOND] * 3 + [NOW]


async def test_a_revoked_session_is_not_touched(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user())
    await stores.sessions.revoke(session.digest, now=NOW)
    assert (await _touch(stores, session, timedelta(0))).last_seen_at == NOW


# --- recently used ----------------------------------------------------------------------------------------------

FIRST_BRIDGE = "0123456789abcdef"


async def _recent(stores: Stores, bridge_id: str = FIRST_BRIDGE, *, page: int = 100) -> list[Session]:
    found: list[Session] = []
    while True:
        before = (found[-1].last_seen_at, found[-1].digest) if found else None
        reads = await stores.sessions.recently_used(
            bridge_id, before=before, seen_after=NOW - HOUR, now=NOW, limit=page
        )
        if not reads:
            return found
        for read in reads:
            assert read.session is not None
            assert read == await stores.sessions.read(read.session.digest)
            found.append(read.session)


@pytest.mark.parametrize("page", [1, 3, 100])
async def test_a_bridges_sessions_are_read_most_recently_used_first_and_each_once(stores: Stores, page: int) -> None:
    user = await stores.add_user()
    sessions = [
        await stores.add_session(user, last_seen_at=NOW - (n // 3) * SECOND) for n in (4, 0, 7, 1, 5, 3, 2, 6)
    ]
    await stores.add_session(user, bridge_id="another")
    await stores.sessions.revoke(fresh_digest(), now=NOW)
    assert await _recent(stores, page=page) == sorted(
        sessions, key=lambda s: (s.last_seen_at, s.digest), reverse=True
    )
    assert await _recent(stores, "nobody") == []


async def test_a_session_belongs_to_the_bridge_that_used_it_last_and_keeps_who_made_it(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user(), last_seen_at=NOW - INTERVAL)
    await stores.sessions.touch(
        [SessionActivity(digest=session.digest, idle_for=timedelta(0))],
        bridge_id=OTHER_BRIDGE,
        now=NOW,
        interval_seconds=60,
    )
    assert await _recent(stores) == []
    assert await _recent(stores, OTHER_BRIDGE) == [replace(session, last_seen_at=NOW)]


async def test_sessions_that_are_not_live_are_not_among_the_recently_used(stores: Stores) -> None:
    user = await stores.add_user()
    await stores.add_session(user)
    await _revoke_all(stores, user.id)
    revoked = await stores.add_session(user)
    await stores.sessions.revoke(revoked.digest, now=NOW)
    await stores.add_session(user, expires_at=NOW)
    await stores.add_session(user, last_seen_at=NOW - HOUR)
    await _disable(stores, (await stores.add_session(await stores.add_user())).user_id)
    await _delete(stores, (await stores.add_session(await stores.add_user())).user_id)
    live = await stores.add_session(user)
    assert await _recent(stores) == [live]
