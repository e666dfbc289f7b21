"""How many sessions a user may have, and when a session id is due to be replaced, in every store."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from flowless.domain.sessions import ActiveSession, Session, SessionLimits, judge
from flowless.domain.users import Profile, User
from flowless.ports.stores import SessionRoom
from tests.support.stores import HASH, HOUR, NOW, SECOND, Stores, fresh_digest, new_session

ROOM = SessionRoom(most=3, seen_after=NOW - HOUR)
LIMITS = SessionLimits(absolute=timedelta(days=365), idle=timedelta(days=365), per_user=3)


async def _log_in(stores: Stores, user: User, *, age: int = 0, room: SessionRoom = ROOM) -> Session:
    session = new_session(user.id, created_at=NOW - age * SECOND)
    added = await stores.sessions.add(session, expected_hash=HASH, room=room)
    assert added is not None
    return added


async def _live(stores: Stores, sessions: list[Session]) -> list[bool]:
    return [await stores.is_live(session) for session in sessions]


async def test_a_login_over_the_limit_ends_the_oldest_session(stores: Stores) -> None:
    user, other = await stores.add_user(), await stores.add_user()
    theirs = await _log_in(stores, other, age=100)
    sessions = [await _log_in(stores, user, age=age) for age in (9, 8, 7)]
    added, rows = await stores.written_by(_log_in(stores, user))
    assert rows == [("session", sessions[0].digest.hex())]
    assert await _live(stores, [*sessions, added, theirs]) == [False, True, True, True, True]


async def test_a_lower_limit_is_reached_by_the_next_login(stores: Stores) -> None:
    user = await stores.add_user()
    sessions = [await _log_in(stores, user, age=age) for age in (9, 8, 7)]
    last = await _log_in(stores, user, room=SessionRoom(most=1, seen_after=NOW - HOUR))
    assert await _live(stores, [*sessions, last]) == [False, False, False, True]


async def test_sessions_that_have_ended_take_no_room(stores: Stores) -> None:
    user = await stores.add_user()
    idle = new_session(user.id, created_at=NOW - 9 * SECOND, last_seen_at=NOW - 2 * HOUR)
    over = new_session(user.id, created_at=NOW - 9 * SECOND, expires_at=NOW)
    for session in (idle, over):
        assert await stores.sessions.add(session, expected_hash=HASH) is not None
    revoked = await _log_in(stores, user, age=8)
    await stores.sessions.revoke(revoked.digest, now=NOW)
    kept = [await _log_in(stores, user, age=age) for age in (7, 6)]
    _, rows = await stores.written_by(_log_in(stores, user))
    assert rows == []
    assert await _live(stores, kept) == [True, True]


async def test_logins_at_once_do_not_get_past_the_limit(stores: Stores) -> None:
    user = await stores.add_user()
    sessions = await asyncio.gather(*(_log_in(stores, user, age=age) for age in range(12)))
    assert sum(await _live(stores, list(sessions))) == ROOM.most


@pytest.mark.parametrize("changed", [Profile(roles=("admin",)), Profile(roles=())])
async def test_other_roles_make_the_session_ids_from_before_due(stores: Stores, changed: Profile) -> None:
    user = await stores.add_user()
    await stores.users.update(user.id, Profile(roles=("reader",)), frozenset({"roles"}), now=NOW)
    before = await _log_in(stores, user)
    assert not await _is_due(stores, before)
    await stores.users.update(user.id, changed, frozenset({"roles"}), now=NOW)
    assert await _is_due(stores, before)
    assert not await _is_due(stores, await _log_in(stores, user))
    rotated = fresh_digest()
    await stores.sessions.replace_digest(before.digest, expected_epoch=1, new=rotated, now=NOW)
    assert not await _is_due(stores, replace(before, digest=rotated))


async def test_a_change_that_leaves_the_roles_makes_no_session_id_due(stores: Stores) -> None:
    user = await stores.add_user()
    session = await _log_in(stores, user)
    for profile, only in ((Profile(name="Ada"), "name"), (Profile(roles=user.profile.roles), "roles")):
        await stores.users.update(user.id, profile, frozenset({only}), now=NOW)
    assert not await _is_due(stores, session)


async def _is_due(stores: Stores, session: Session) -> bool:
    judged = judge(await stores.sessions.read(session.digest), now=NOW, limits=LIMITS)
    assert isinstance(judged, ActiveSession)
    return judged.rotation_due


async def test_a_proof_again_is_noted_with_the_new_digest(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user())
    fresh = fresh_digest()
    await stores.sessions.replace_digest(
        session.digest, expected_epoch=1, new=fresh, authenticated=("password", "totp"), now=NOW + SECOND
    )
    found = (await stores.sessions.read(fresh)).session
    assert found is not None
    assert (found.methods, found.authenticated_at) == (("password", "totp"), NOW + SECOND)
    assert (found.handle, found.created_at) == (session.handle, session.created_at)


async def test_a_session_that_rotates_while_it_is_evicted_does_not_escape(stores: Stores) -> None:
    one = SessionRoom(most=1, seen_after=NOW - HOUR)
    for _ in range(15):
        user = await stores.add_user()
        session, fresh = await _log_in(stores, user, age=9), fresh_digest()
        added = new_session(user.id)
        await asyncio.gather(
            stores.sessions.replace_digest(session.digest, expected_epoch=1, new=fresh, now=NOW),
            stores.sessions.add(added, expected_hash=HASH, room=one),
        )
        assert await _live(stores, [session, replace(session, digest=fresh), added]) == [False, False, True]
