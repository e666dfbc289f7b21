"""A session's life in every store, against a model that is simple enough to be believed."""

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from flowless.domain.sessions import ActiveSession, KeptSession, Session, SessionActivity, SessionLimits, judge
from flowless.domain.users import UserStatus
from tests.support.stores import ENGINES, HASH, NOW, fresh_digest, new_session
from trust_core.modes import DenialReason

T = TypeVar("T")

LIMITS = SessionLimits(absolute=timedelta(minutes=60), idle=timedelta(minutes=20), per_user=100)
INTERVAL = timedelta(minutes=1)
MINUTES = st.integers(0, 30).map(lambda minutes: timedelta(minutes=minutes))


@dataclass
class ModelUser:
    """Whom the store should know."""

    id: str
    password_hash: str = HASH
    epoch: int = 1
    active: bool = True
    deleted: bool = False


@dataclass
class ModelSession:
    """One login. `digests` holds the present digest last; those before were rotated away."""

    user: ModelUser
    record: Session
    last_seen: datetime
    revoked: bool = False
    revoked_by_itself: bool = False
    digests: list[bytes] = field(default_factory=list)


class SessionLife(RuleBasedStateMachine):
    users = Bundle("users")
    sessions = Bundle("sessions")

    def __init__(self, engine: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        directory = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.stores = self.run(self.stack.enter_async_context(ENGINES[engine](Path(directory))))
        self.now = NOW
        self.log: list[tuple[str, str]] = []
        self.all: list[ModelSession] = []

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def wrote(self, revision: int | None, subject: str, key: str) -> None:
        """The store says that it wrote one row."""
        self.log.append((subject, key))
        assert revision == len(self.log)

    def wrote_nothing(self, revision: int | None) -> None:
        """The store says that nothing was to be done."""
        assert revision == len(self.log)

    def revoke_all(self, user: ModelUser, kept: ModelSession | None) -> None:
        user.epoch += 1
        for session in self.all:
            if session.user is user and session is not kept:
                session.revoked = True

    @rule(target=users)
    def register(self) -> ModelUser:
        return ModelUser(id=self.run(self.stores.add_user()).id)

    @rule(target=sessions, user=users, stale_hash=st.booleans(), stale_epoch=st.booleans())
    def log_in(self, user: ModelUser, stale_hash: bool, stale_epoch: bool) -> Any:
        record = new_session(
            user.id,
            epoch=user.epoch - (1 if stale_epoch else 0),
            created_at=self.now,
            authenticated_at=self.now,
            last_seen_at=self.now,
            expires_at=self.now + LIMITS.absolute,
        )
        expected = "$stale" if stale_hash else user.password_hash
        added = self.run(self.stores.sessions.add(record, expected_hash=expected))
        if stale_hash or stale_epoch or user.deleted or not user.active:
            assert added is None
            return multiple()
        assert added is not None
        self.wrote_nothing(added.id_revision)
        session = ModelSession(user=user, record=record, last_seen=self.now, digests=[record.digest])
        self.all.append(session)
        return session

    @rule(session=sessions, by_handle=st.booleans())
    def revoke(self, session: ModelSession, by_handle: bool) -> None:
        revision = self.run(
            self.stores.sessions.revoke_handle(session.record.handle, now=self.now)
            if by_handle
            else self.stores.sessions.revoke(session.digests[-1], now=self.now)
        )
        # A session of an epoch before is not live, but nobody has revoked it by itself yet.
        if session.user.deleted or session.revoked_by_itself:
            self.wrote_nothing(revision)
        else:
            self.wrote(revision, "session", session.digests[-1].hex())
        session.revoked = session.revoked_by_itself = True

    @rule(user=users, kept=st.none() | sessions)
    def revoke_all_but_one(self, user: ModelUser, kept: ModelSession | None) -> None:
        self.revoke_user(user, kept)

    def revoke_user(self, user: ModelUser, kept: ModelSession | None) -> None:
        handle = kept.record.handle if kept else ""
        revision = self.run(self.stores.sessions.revoke_user(user.id, except_handle=handle, now=self.now))
        if user.deleted:
            self.wrote_nothing(revision)
        else:
            self.wrote(revision, "user", user.id)
            self.revoke_all(user, kept)

    @rule(session=sessions)
    def revoke_the_others(self, session: ModelSession) -> None:
        self.revoke_user(session.user, session)

    @rule(user=users, right=st.booleans(), kept=st.none() | sessions)
    def set_password(self, user: ModelUser, right: bool, kept: ModelSession | None) -> None:
        new_hash = f"{user.password_hash}'"
        fresh = fresh_digest()
        changed = self.run(
            self.stores.users.set_password(
                user.id,
                expected_hash=user.password_hash if right else "$wrong",
                new_hash=new_hash,
                kept=KeptSession(digest=kept.digests[-1], new_digest=fresh) if kept else None,
                now=self.now,
            )
        )
        if user.deleted or not right:
            assert changed is None
            return
        assert changed is not None
        revision, is_kept = changed
        self.wrote(revision, "user", user.id)
        assert is_kept == (kept is not None and kept.user is user and not kept.revoked)
        self.revoke_all(user, kept)
        if kept is not None and is_kept:
            kept.digests.append(fresh)
        user.password_hash = new_hash

    @rule(user=users, active=st.booleans())
    def set_status(self, user: ModelUser, active: bool) -> None:
        status = UserStatus.ACTIVE if active else UserStatus.DISABLED
        revision = self.run(self.stores.users.set_status(user.id, status, now=self.now))
        if user.deleted:
            assert revision is None
        elif user.active == active:
            self.wrote_nothing(revision)
        else:
            self.wrote(revision, "user", user.id)
            user.active = active
            if not active:
                self.revoke_all(user, None)

    @rule(user=consumes(users), target=users)
    def delete(self, user: ModelUser) -> ModelUser:
        revision = self.run(self.stores.users.delete(user.id, now=self.now))
        if user.deleted:
            self.wrote_nothing(revision)
        else:
            self.wrote(revision, "user", user.id)
            user.deleted = True
        return user

    @rule(session=sessions, age=st.integers(0, 3))
    def rotate(self, session: ModelSession, age: int) -> None:
        old, new = session.digests[-min(age, len(session.digests) - 1) - 1], fresh_digest()
        revision = self.run(
            self.stores.sessions.replace_digest(old, expected_epoch=session.user.epoch, new=new, now=self.now)
        )
        expired = session.record.expires_at <= self.now
        if self.expected(session) in (DenialReason.UNKNOWN, DenialReason.USER_DISABLED, DenialReason.REVOKED) or (
            expired or old != session.digests[-1]
        ):
            assert revision is None
        else:
            self.wrote(revision, "session", old.hex())
            session.digests.append(new)

    @rule(session=sessions, idle_for=MINUTES)
    def touch(self, session: ModelSession, idle_for: timedelta) -> None:
        activity = SessionActivity(digest=session.digests[-1], idle_for=idle_for)
        self.run(
            self.stores.sessions.touch(
                [activity], bridge_id="bridge", now=self.now, interval_seconds=INTERVAL.total_seconds()
            )
        )
        if not session.revoked_by_itself and self.now - idle_for - session.last_seen >= INTERVAL:
            session.last_seen = self.now - idle_for

    @rule(delta=MINUTES)
    def pass_time(self, delta: timedelta) -> None:
        self.now += delta

    def expected(self, session: ModelSession) -> DenialReason | None:
        """The model's rule; `None` is active."""
        if session.user.deleted:
            return DenialReason.UNKNOWN
        if not session.user.active:
            return DenialReason.USER_DISABLED
        if session.revoked:
            return DenialReason.REVOKED
        if session.record.expires_at <= self.now:
            return DenialReason.EXPIRED
        if session.last_seen + LIMITS.idle <= self.now:
            return DenialReason.IDLE
        return None

    @invariant()
    def every_session_is_judged_as_the_model_says(self) -> None:
        for session in self.all:
            read = self.run(self.stores.sessions.read(session.digests[-1]))
            judged = judge(read, now=self.now, limits=LIMITS)
            assert (None if isinstance(judged, ActiveSession) else judged) == self.expected(session)
            assert read.revision == len(self.log)
            for old in session.digests[:-1]:
                assert self.run(self.stores.sessions.read(old)).session is None

    @invariant()
    def exactly_the_live_sessions_are_listed(self) -> None:
        for user in {session.user.id: session.user for session in self.all}.values():
            listed = self.run(
                self.stores.sessions.list_live(
                    user.id, now=self.now, seen_after=self.now - LIMITS.idle, before=None, limit=1_000
                )
            )
            live = {s.record.handle for s in self.all if s.user is user and self.expected(s) is None}
            assert {session.handle for session in listed} == live

    @invariant()
    def the_log_holds_one_row_for_each_effect(self) -> None:
        rows = self.run(self.stores.rows())
        assert [(row.subject, row.key) for row in rows] == self.log
        assert [row.revision for row in rows] == list(range(1, len(rows) + 1))


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_a_sessions_life_in_the_store_is_that_of_the_model(engine: str) -> None:
    run_state_machine_as_test(
        partial(SessionLife, engine),  # type: ignore[arg-type]  # any factory does
        # Shrinking runs hundreds of databases; a life of 25 steps is read as fast.
        settings=settings(
            max_examples=20, stateful_step_count=25, deadline=None, phases=(Phase.explicit, Phase.generate)
        ),
    )
