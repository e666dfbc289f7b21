"""SQL and Redis as the simulation has them, and what a sidecar is told of a session."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from bridge_sidecar.validator import ActiveSession, UpstreamAnswer
from flowless.domain.revocations import Revocation
from flowless.domain.sessions import ActiveSession as JudgedSession
from flowless.domain.sessions import Session, SessionLimits, SessionRead
from flowless.domain.users import User
from tests.faults.simulated.network import Gate
from tests.support.scripted_replicas import ScriptedReplicas
from trust_core.errors import Reason, TrustError

LIMITS: Final = SessionLimits(absolute=timedelta(hours=24), idle=timedelta(hours=8), per_user=100)
"""Long enough that a wall clock which is an hour off ends no session."""


class Storage:
    """SQL as the stores use it: each read is one snapshot, each write one step, at some moment while it lasts."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.rows: list[Revocation] = []
        self.sessions: dict[bytes, Session] = {}
        self.users: dict[str, User] = {}
        self.epochs: dict[str, int] = {}
        self.barrier_revision = 0
        self.registry = ScriptedReplicas(on_ask=self._asked)
        self.down = False
        self.slow_seconds = 0.0
        self.runs = Gate()
        # The rule that a test breaks: that revisions become visible in their order.
        self.ordered = True
        self._allocated = 0
        self.listeners: dict[object, Callable[[], None]] = {}

    def _asked(self, revision: int) -> None:
        self.barrier_revision = max(self.barrier_revision, revision)

    def delay(self) -> float:
        """How many seconds a statement takes."""
        return self._rng.uniform(0.0002, 0.003) + (
            self._rng.uniform(0, self.slow_seconds) if self.slow_seconds else 0
        )

    async def take_time(self) -> None:
        await asyncio.sleep(self.delay())
        await self.runs.passed()
        if self.down:
            raise TrustError(Reason.STORAGE_UNAVAILABLE, "down")

    async def answer(self) -> None:
        """Let what was read become old on its way, sometimes."""
        if self._rng.random() < 0.2:
            await asyncio.sleep(self._rng.uniform(0.001, 0.05))

    @property
    def end(self) -> int:
        return self.rows[-1].revision if self.rows else 0

    def snapshot(self, key: bytes) -> SessionRead:
        session = self.sessions.get(key)
        if session is None:
            return SessionRead(revision=self.end)
        return SessionRead(
            revision=self.end,
            session=session,
            user=self.users[session.user_id],
            user_epoch=self.epochs[session.user_id],
        )

    async def revoke(self, key: bytes, *, whole_user: bool) -> int:
        """Write the effect and its row. Writers wait for each other unless the rule is broken."""
        await self.take_time()
        self._allocated += 1
        revision = self._allocated
        if not self.ordered:
            await asyncio.sleep(self._rng.choice((0.0, 0.0, 0.05, 0.4)))
        session = self.sessions[key]
        if whole_user:
            self.epochs[session.user_id] += 1
            row = Revocation(revision=revision, subject="user", key=session.user_id)
        else:
            self.sessions[key] = replace(session, revoked_at=session.created_at)
            row = Revocation(revision=revision, subject="session", key=key.hex())
        self.rows.append(row)
        self.rows.sort(key=lambda each: each.revision)
        await asyncio.sleep(self._rng.uniform(0.0002, 0.002))
        return revision

    def wake(self) -> None:
        for listener in list(self.listeners.values()):
            listener()


class Redis:
    """The tier: what is newer is not overwritten, a tombstone refuses what is older. Loses and repeats on demand."""

    enabled = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.entries: dict[bytes, SessionRead | int] = {}
        self.saved: dict[bytes, SessionRead | int] = {}
        self.down = False
        self.slow_seconds = 0.0
        self.buries = True

    async def _reached(self) -> bool:
        await asyncio.sleep(self._rng.uniform(0.0001, 0.001) + self._rng.uniform(0, self.slow_seconds))
        return not self.down

    async def get(self, key: bytes, *, log_id: str) -> SessionRead | None:
        if not await self._reached():
            return None
        found = self.entries.get(key)
        return found if isinstance(found, SessionRead) else None

    async def fill(self, key: bytes, read: SessionRead, *, log_id: str, ttl_seconds: float) -> None:
        await asyncio.sleep(self._rng.choice((0.0, 0.0, 0.1)))
        if not await self._reached():
            return
        found = self.entries.get(key)
        known = found.revision if isinstance(found, SessionRead) else found
        if known is None or known <= read.revision:
            self.entries[key] = read

    async def bury(self, key: bytes, revision: int, *, log_id: str) -> None:
        if self.buries and await self._reached():
            self.entries[key] = revision

    async def close(self) -> None:
        """Nothing to close."""


def answer_of(result: Any, revision: int) -> UpstreamAnswer:
    """Say what the sidecar's upstream would make of it."""
    if not isinstance(result, JudgedSession):
        return UpstreamAnswer(active=None, denial=int(result), tier=4, revision=revision)
    active = ActiveSession(
        payload=b"session",
        user_id=result.user.id,
        binding=result.session.binding,
        roles=frozenset(result.user.profile.roles),
        authentication_age_ns=result.authentication_age // timedelta(microseconds=1) * 1_000,
        absolute_remaining_ns=result.absolute_remaining // timedelta(microseconds=1) * 1_000,
        idle_remaining_ns=result.idle_remaining // timedelta(microseconds=1) * 1_000,
    )
    return UpstreamAnswer(active=active, denial=0, tier=4, revision=revision)
