"""Logins that race: against a password change, against each other, against a better hash."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import argon2
import pytest

from flowless.adapters.email_addresses import LibraryEmailAddresses
from flowless.adapters.passwords.breached import NoBreachedPasswords
from flowless.adapters.passwords.common import CommonPasswordList
from flowless.domain.sessions import ActiveSession, SessionActivity, SessionLimits
from flowless.domain.users import Profile, User
from flowless.services.credentials import UserPasswords
from flowless.services.logins import Device, Logins, SessionFactory
from flowless.services.passwords import PasswordPolicy
from flowless.services.session_tiers import DatabaseReads
from flowless.services.sessions import NewSession, Sessions
from flowless.services.users import Users
from tests.support.attempts import new_limiter
from tests.support.clock import FakeClock
from tests.support.passwords import new_hasher
from tests.support.stores import BY, Stores, counting_random, sqlite
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import digest
from trust_core.modes import DenialReason, RequestContext, ValidationMode

PASSWORD = "correct horse battery"
CONTEXT = RequestContext("203.0.113.7", "device", "agent")
LIMITS = SessionLimits(absolute=timedelta(hours=24), idle=timedelta(hours=1), per_user=100)


class Identity:
    """The services over a real store, real hashing and a clock of the test's."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.clock = FakeClock()
        self.hasher = new_hasher()
        policy = PasswordPolicy(
            minimum=12, context_words=(), common=CommonPasswordList(), breached=NoBreachedPasswords()
        )
        self.users = Users(
            store=stores.users,
            hasher=self.hasher,
            policy=policy,
            addresses=LibraryEmailAddresses(),
            clock=self.clock,
            random=counting_random,
        )
        self.sessions = Sessions(
            reads=DatabaseReads(store=stores.sessions),
            store=stores.sessions,
            limits=LIMITS,
            activity_interval=timedelta(minutes=1),
            clock=self.clock,
            random=counting_random,
        )
        self.attempts = new_limiter(clock=self.clock, audit=stores.audit)
        self.passwords = UserPasswords(
            users=stores.users,
            hasher=self.hasher,
            policy=policy,
            audit=stores.audit,
            attempts=self.attempts,
            clock=self.clock,
            random=counting_random,
        )
        self.logins = Logins(
            store=stores.sessions,
            sessions=self.sessions,
            users=self.users,
            passwords=self.passwords,
            factory=SessionFactory(limits=LIMITS, clock=self.clock, random=counting_random),
            attempts=self.attempts,
        )

    async def register(self) -> User:
        return await self.users.register(email="ada@example.org", password=PASSWORD, profile=Profile(), by=BY)

    async def log_in(self, password: str = PASSWORD) -> NewSession:
        device = Device(context=CONTEXT, name="", bridge_id="bridge")
        return await self.logins.log_in(login="ada@example.org", password=password, device=device, by=BY)

    async def validate(self, session_id: str) -> ActiveSession | DenialReason:
        answer = await self.sessions.validate(session_id, mode=None, context=RequestContext(), min_revision=0)
        return answer.result

    async def stored_hash(self, user: User) -> str:
        found = await self.stores.users.credentials(user.id)
        assert found is not None
        return found.password_hash


@pytest.fixture
async def identity(tmp_path: Path) -> AsyncIterator[Identity]:
    async with sqlite(tmp_path) as stores:
        yield Identity(stores)


async def _outdate(identity: Identity, user: User) -> str:
    """Store a hash of the same password with a profile of yesterday."""
    old = argon2.PasswordHasher(time_cost=2, memory_cost=8, parallelism=1).hash(PASSWORD)
    await identity.stores.users.upgrade_hash(user.id, expected_hash=await identity.stored_hash(user), new_hash=old)
    return old


async def test_a_login_replaces_a_hash_of_an_old_profile_once(identity: Identity) -> None:
    user = await identity.register()
    old = await _outdate(identity, user)
    await identity.log_in()
    better = await identity.stored_hash(user)
    assert better != old
    assert not (await identity.hasher.verify(better, PASSWORD)).outdated
    await identity.log_in()
    assert await identity.stored_hash(user) == better


async def test_logins_at_once_after_a_change_of_profile_all_succeed(identity: Identity) -> None:
    user = await identity.register()
    await _outdate(identity, user)
    logins = await asyncio.gather(*(identity.log_in() for _ in range(8)))
    assert len({login.session_id for login in logins}) == 8
    for login in logins:
        assert isinstance(await identity.validate(login.session_id), ActiveSession)


async def test_a_login_with_the_old_password_loses_against_its_change(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password changes after it was checked and before the better hash is stored."""
    user = await identity.register()
    await _outdate(identity, user)
    upgrade = identity.stores.users.upgrade_hash

    async def upgrade_too_late(*arguments: Any, **named: Any) -> None:
        await identity.passwords.change(
            user.id, current=PASSWORD, new="another password", session_id="", context=CONTEXT, by=BY
        )
        await upgrade(*arguments, **named)

    monkeypatch.setattr(identity.stores.users, "upgrade_hash", upgrade_too_late)
    with pytest.raises(TrustError) as caught:
        await identity.log_in()
    assert caught.value.reason is Reason.LOGIN_REFUSED
    await identity.log_in("another password")


async def test_a_login_that_was_checked_before_all_sessions_were_revoked_is_refused(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await identity.register()
    verify = identity.hasher.verify

    async def verify_and_revoke(*arguments: Any, **options: Any) -> Any:
        verdict = await verify(*arguments, **options)
        await identity.sessions.revoke_all_of_user(user.id, except_handle="", by=BY)
        return verdict

    monkeypatch.setattr(identity.hasher, "verify", verify_and_revoke)
    with pytest.raises(TrustError) as caught:
        await identity.log_in()
    assert caught.value.reason is Reason.LOGIN_REFUSED
    page = await identity.sessions.list(user.id, page_size=0, before=None)
    assert page.sessions == []


async def test_a_mismatch_revokes_the_session_also_when_its_id_was_rotated_meanwhile(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    await identity.register()
    stolen = await identity.log_in()
    read = identity.stores.sessions.read
    rotated: list[NewSession] = []

    async def read_and_rotate(key: bytes) -> Any:
        found = await read(key)
        monkeypatch.setattr(identity.stores.sessions, "read", read)
        rotated.append(await identity.sessions.rotate(stolen.session_id, by=BY))
        return found

    monkeypatch.setattr(identity.stores.sessions, "read", read_and_rotate)
    elsewhere = RequestContext("198.51.100.9", "device", "agent")
    report = await identity.sessions.report_mismatch(
        stolen.session_id, mode=ValidationMode.STANDARD, context=elsewhere, by=BY
    )
    assert (report.denial, report.revoked) == (DenialReason.IP_MISMATCH, True)
    assert await identity.validate(rotated[0].session_id) is DenialReason.REVOKED
    assert report.revision == await identity.stores.end()


async def test_a_login_loses_against_the_deletion_of_its_user(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await identity.register()
    await _outdate(identity, user)

    async def delete_instead(*_: Any, **__: Any) -> None:
        await identity.users.delete(user.id, by=BY)

    monkeypatch.setattr(identity.stores.users, "upgrade_hash", delete_instead)
    with pytest.raises(TrustError) as caught:
        await identity.log_in()
    assert caught.value.reason is Reason.LOGIN_REFUSED


async def test_a_session_lives_through_use_and_dies_at_its_absolute_end(identity: Identity) -> None:
    await identity.register()
    session_id = (await identity.log_in()).session_id
    used = [SessionActivity(digest=digest(session_id), idle_for=timedelta(0))]
    for _ in range(47):
        identity.clock.advance(30 * 60)
        assert isinstance(await identity.validate(session_id), ActiveSession)
        left = await identity.sessions.report_activity(used, bridge_id="bridge")
        assert left == {used[0].digest: min(LIMITS.idle, LIMITS.absolute - (identity.clock.now() - _login_time()))}
    identity.clock.advance(30 * 60)
    assert await identity.validate(session_id) is DenialReason.EXPIRED
    assert await identity.sessions.report_activity(used, bridge_id="bridge") == {}


def _login_time() -> Any:
    return FakeClock().now()


async def test_a_session_dies_when_it_is_not_used(identity: Identity) -> None:
    await identity.register()
    session_id = (await identity.log_in()).session_id
    identity.clock.advance(3_599)
    assert isinstance(await identity.validate(session_id), ActiveSession)
    identity.clock.advance(1)
    assert await identity.validate(session_id) is DenialReason.IDLE
    used = [SessionActivity(digest=digest(session_id), idle_for=timedelta(seconds=30))]
    assert await identity.sessions.report_activity(used, bridge_id="bridge") == {}
    assert await identity.validate(session_id) is DenialReason.IDLE


async def test_rotating_does_not_extend_a_session(identity: Identity) -> None:
    await identity.register()
    first = await identity.log_in()
    identity.clock.advance(1_800)
    second = await identity.sessions.rotate(first.session_id, by=BY)
    assert second.active.session.expires_at == first.active.session.expires_at
    assert second.active.idle_remaining == timedelta(minutes=30)
    identity.clock.advance(1_800)
    assert await identity.validate(second.session_id) is DenialReason.IDLE


async def test_a_login_that_cannot_be_hashed_now_looks_nobody_up(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    await identity.register()
    active = await identity.log_in()

    def full() -> None:
        raise TrustError(Reason.HASHING_OVERLOADED, "full")

    async def unexpected(*_: object) -> None:
        raise AssertionError("looked up")

    monkeypatch.setattr(identity.hasher, "require_room", full)
    monkeypatch.setattr(identity.stores.users, "credentials_by_email", unexpected)
    monkeypatch.setattr(identity.sessions, "active", unexpected)
    for attempt in (
        identity.log_in(),
        identity.logins.reauthenticate(active.session_id, PASSWORD, context=CONTEXT, by=BY),
    ):
        with pytest.raises(TrustError) as caught:
            await attempt
        assert caught.value.reason is Reason.HASHING_OVERLOADED
