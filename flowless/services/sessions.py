"""Use cases of sessions that are there: validation, rotation, listing, revocation, activity."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from flowless.domain.audit import Action, Actor
from flowless.domain.contexts import check_context
from flowless.domain.fields import Fields
from flowless.domain.sessions import ActiveSession, Session, SessionActivity, SessionLimits, judge
from flowless.ports.stores import SessionStore
from flowless.services.session_tiers import SessionReads
from flowless.services.users import check_user_id, checked_page_size
from trust_core import modes
from trust_core.clock import Clock
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import (
    DIGEST_BYTES,
    RandomBytes,
    digest,
    is_session_handle,
    new_session_id,
    session_digest,
)
from trust_core.modes import DEFAULT_PREFIXES, DenialReason, IpPrefixes, RequestContext, ValidationMode

MAX_ACTIVITIES: Final = 1000
MAX_RECENTLY_USED: Final = 10_000
_RECENTLY_USED_PAGE: Final = 200
MAX_STALENESS: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A session with its id: the only time that the id exists inside Flowless after being made."""

    session_id: str
    active: ActiveSession
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Answer to a validation: active or denied, with the log's end in the same snapshot."""

    result: ActiveSession | DenialReason
    revision: int
    from_tier: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MismatchReport:
    """What came of a report that a session is used from somewhere else; `denial` `None`: it is not."""

    denial: DenialReason | None
    revoked: bool
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPage:
    """One page of sessions; `next_before` is absent at the end."""

    sessions: Sequence[Session]
    next_before: tuple[datetime, str] | None


class Sessions:
    """From validation to revocation. How a session begins is in `logins.py`."""

    def __init__(
        self,
        *,
        store: SessionStore,
        reads: SessionReads,
        limits: SessionLimits,
        activity_interval: timedelta,
        clock: Clock,
        random: RandomBytes,
        ip_prefixes: IpPrefixes = DEFAULT_PREFIXES,
    ) -> None:
        self._ip_prefixes = ip_prefixes
        self._store = store
        self._reads = reads
        self._limits = limits
        self._activity_interval = activity_interval
        self._clock = clock
        self._random = random
        # Since the start, for metrics; touched by the event loop only.
        self.validated: dict[str, int] = dict.fromkeys(("redis", "database", "none"), 0)
        self.denied: dict[DenialReason, int] = {}
        self.mismatches: dict[str, int] = dict.fromkeys(("revoked", "not_revoked"), 0)

    async def validate(
        self,
        session_id: str,
        *,
        mode: ValidationMode | None,
        context: RequestContext,
        min_revision: int,
        max_staleness: timedelta = timedelta(0),
    ) -> Validation:
        """Say whether a session is active; with a mode also whether it is for this request.

        Errors: INVALID_FIELD; REVISION_NOT_REACHED when the log has not reached `min_revision`. A malformed id is
        denied without a look at storage, with revision 0. `max_staleness` is how old the answer may be; 0 asks the
        database.
        """
        validation = await self._validate(session_id, mode, context, min_revision, max_staleness)
        tier, result = "redis" if validation.from_tier else "database", validation.result
        if isinstance(result, DenialReason):
            self.denied[result] = self.denied.get(result, 0) + 1
            if result is DenialReason.MALFORMED:
                tier = "none"
        self.validated[tier] += 1
        return validation

    async def _validate(
        self,
        session_id: str,
        mode: ValidationMode | None,
        context: RequestContext,
        min_revision: int,
        max_staleness: timedelta,
    ) -> Validation:
        fields = Fields()
        check_context(context, fields)
        if min_revision < 0:
            fields.add("min_revision", "0 or more")
        if not timedelta(0) <= max_staleness <= MAX_STALENESS:
            fields.add("max_staleness", f"0 to {MAX_STALENESS.total_seconds():g} seconds")
        fields.refuse()
        key = session_digest(session_id)
        if key is None:
            return Validation(result=DenialReason.MALFORMED, revision=0)
        found = await self._reads.read(
            key, min_revision=min_revision, max_staleness_ns=max_staleness // timedelta(microseconds=1) * 1000
        )
        read = found.read
        if read.revision < min_revision:
            raise TrustError(
                Reason.REVISION_NOT_REACHED, f"the log is at revision {read.revision}, before the one asked for"
            )
        result = judge(read, now=self._clock.now(), limits=self._limits)
        if isinstance(result, ActiveSession) and mode is not None:
            reason = modes.check(mode, result.session.binding, context, self._ip_prefixes)
            if reason is not None:
                result = reason
        return Validation(result=result, revision=read.revision, from_tier=found.from_tier)

    async def report_mismatch(
        self,
        session_id: str,
        *,
        mode: ValidationMode | None,
        context: RequestContext,
        prefixes: tuple[int, int] = (0, 0),
        by: Actor,
    ) -> MismatchReport:
        """Revoke a session that is used from somewhere else than it was made; idempotent.

        `prefixes` are of IPv4 and of IPv6, 0 for our own. The bridge's word is not enough: the context is compared
        here, with what the database holds. A bridge that makes contexts up can end the sessions whose ids it knows,
        which by logging them out it can anyway. Errors: INVALID_FIELD.
        """
        fields = Fields()
        check_context(context, fields)
        if mode is None:
            fields.add("mode", "required")
        compared = IpPrefixes(v4=prefixes[0] or self._ip_prefixes.v4, v6=prefixes[1] or self._ip_prefixes.v6)
        if not compared.are_valid:
            fields.add("ipv4_prefix", "0 to 32, and ipv6_prefix 0 to 128")
        fields.refuse()
        report = await self._judge_mismatch(checked_session_id(session_id), mode, context, compared, by)
        self.mismatches["revoked" if report.revoked else "not_revoked"] += 1
        return report

    async def _judge_mismatch(
        self, key: bytes, mode: ValidationMode | None, context: RequestContext, compared: IpPrefixes, by: Actor
    ) -> MismatchReport:
        read, now = await self._store.read(key), self._clock.now()
        judged = judge(read, now=now, limits=self._limits)
        if not isinstance(judged, ActiveSession) or mode is None:
            denial = judged if isinstance(judged, DenialReason) else None
            return MismatchReport(denial=denial, revoked=False, revision=read.revision)
        denial = modes.check(mode, judged.session.binding, context, compared)
        if denial not in modes.MISMATCHES:
            return MismatchReport(denial=denial, revoked=False, revision=read.revision)
        event = by.event(Action.SESSION_MISMATCH, now=now, reason=denial.name, mode=mode.name)
        # By its handle: a rotation that came between has given it another id, which whoever used it may hold by now.
        revision = await self._store.revoke_handle(judged.session.handle, now=now, event=event)
        return MismatchReport(denial=denial, revoked=True, revision=revision)

    async def log_out(self, session_id: str, *, by: Actor) -> int:
        """Revoke by session id; idempotent. Errors: INVALID_FIELD."""
        now = self._clock.now()
        event = by.event(Action.SESSION_LOGOUT, now=now)
        return await self._store.revoke(checked_session_id(session_id), now=now, event=event)

    async def active(self, session_id: str) -> ActiveSession:
        """Read a session that is active, from the database. Errors: INVALID_FIELD, SESSION_NOT_ACTIVE."""
        read = await self._store.read(checked_session_id(session_id))
        active = judge(read, now=self._clock.now(), limits=self._limits)
        if not isinstance(active, ActiveSession):
            raise not_active()
        return active

    async def rotate(self, session_id: str, *, by: Actor) -> NewSession:
        """Replace the session id; the old one ends in the same transaction. Errors: SESSION_NOT_ACTIVE."""
        return await self.replace_id(await self.active(session_id), action=Action.SESSION_ROTATE, by=by)

    async def replace_id(
        self, active: ActiveSession, *, authenticated: tuple[str, ...] | None = None, action: Action, by: Actor
    ) -> NewSession:
        """Give an active session a new id; `authenticated` as in the store's `replace_digest`.

        Errors: SESSION_NOT_ACTIVE when it ended meanwhile.
        """
        fresh = new_session_id(self._random)
        session, now = active.session, self._clock.now()
        revision = await self._store.replace_digest(
            session.digest,
            expected_epoch=session.epoch,
            new=digest(fresh),
            authenticated=authenticated,
            now=now,
            event=by.event(action, now=now, subject=session.handle, user_id=session.user_id),
        )
        if revision is None:
            raise not_active()
        session = replace(session, digest=digest(fresh), id_revision=revision)
        if authenticated is not None:
            session = replace(session, methods=authenticated, authenticated_at=now)
            active = replace(active, authentication_age=timedelta(0))
        return NewSession(session_id=fresh, active=replace(active, session=session), revision=revision)

    async def list(self, user_id: str, *, page_size: int, before: tuple[datetime, str] | None) -> SessionPage:
        """List a user's live sessions, newest first. Errors: INVALID_FIELD."""
        fields = Fields()
        check_user_id(user_id, fields)
        size = checked_page_size(page_size, fields)
        fields.refuse()
        now = self._clock.now()
        found = await self._store.list_live(
            user_id, now=now, seen_after=now - self._limits.idle, before=before, limit=size + 1
        )
        last = found[size - 1] if len(found) > size else None
        return SessionPage(sessions=found[:size], next_before=(last.created_at, last.handle) if last else None)

    async def revoke(self, handle: str, *, by: Actor) -> int:
        """Revoke by handle; idempotent. Errors: INVALID_FIELD."""
        fields = Fields()
        check_handle("handle", handle, fields)
        fields.refuse()
        now = self._clock.now()
        return await self._store.revoke_handle(handle, now=now, event=by.event(Action.SESSION_REVOKE, now=now))

    async def revoke_all_of_user(self, user_id: str, *, except_handle: str, by: Actor) -> int:
        """Revoke all of a user's sessions but one; idempotent. Errors: INVALID_FIELD."""
        fields = Fields()
        check_user_id(user_id, fields)
        if except_handle:
            check_handle("except_handle", except_handle, fields)
        fields.refuse()
        now = self._clock.now()
        event = by.event(
            Action.SESSION_REVOKE_ALL, now=now, subject=user_id, user_id=user_id, except_handle=except_handle
        )
        return await self._store.revoke_user(user_id, except_handle=except_handle, now=now, event=event)

    async def recently_used(self, bridge_id: str, *, limit: int) -> AsyncIterator[tuple[ActiveSession, int]]:
        """Give the active sessions that a bridge used last, most recent first, each with its snapshot's revision.

        Read a page at a time; between pages nothing of the database is held. Errors: INVALID_FIELD.
        """
        fields = Fields()
        if not 1 <= limit <= MAX_RECENTLY_USED:
            fields.add("limit", f"1 to {MAX_RECENTLY_USED}")
        fields.refuse()
        before: tuple[datetime, bytes] | None = None
        while limit > 0:
            now = self._clock.now()
            size = min(limit, _RECENTLY_USED_PAGE)
            reads = await self._store.recently_used(
                bridge_id, before=before, seen_after=now - self._limits.idle, now=now, limit=size
            )
            for read in reads:
                judged = judge(read, now=now, limits=self._limits)
                if isinstance(judged, ActiveSession):
                    yield judged, read.revision
            last = reads[-1].session if len(reads) == size else None
            if last is None:
                return
            before = (last.last_seen_at, last.digest)
            limit -= size

    async def report_activity(
        self, activities: Sequence[SessionActivity], *, bridge_id: str
    ) -> dict[bytes, timedelta]:
        """Record use by a bridge and return the idle time left of each reported session that is active.

        Errors: INVALID_FIELD.
        """
        fields = Fields()
        fields.size("activities", activities, most=MAX_ACTIVITIES)
        if any(len(a.digest) != DIGEST_BYTES or a.idle_for < timedelta(0) for a in activities):
            fields.add("activities", "each with a SHA-256 digest and a time that is not negative")
        fields.refuse()
        now = self._clock.now()
        reads = await self._store.read_many([activity.digest for activity in activities])
        used: list[SessionActivity] = []
        remaining: dict[bytes, timedelta] = {}
        for activity in activities:
            read = reads.get(activity.digest)
            judged = DenialReason.UNKNOWN if read is None else judge(read, now=now, limits=self._limits)
            if not isinstance(judged, ActiveSession):
                continue
            left = judged.idle_remaining
            # In this order: a moment that long ago may be before the first that Python knows.
            if now - judged.session.last_seen_at - activity.idle_for >= self._activity_interval:
                used.append(activity)
                left = min(self._limits.idle - activity.idle_for, judged.absolute_remaining)
            remaining[activity.digest] = left
        await self._store.touch(
            used, bridge_id=bridge_id, now=now, interval_seconds=self._activity_interval.total_seconds()
        )
        return remaining


def not_active() -> TrustError:
    """Build the error for a session that has ended, or never was."""
    return TrustError(Reason.SESSION_NOT_ACTIVE, "the session is not active")


def checked_session_id(session_id: str) -> bytes:
    """Digest of a session id. Errors: INVALID_FIELD."""
    key = session_digest(session_id)
    if key is None:
        fields = Fields()
        fields.add("session_id", "a session id, `sess_` and 49 letters and digits")
        fields.refuse()
        raise AssertionError("refuse raises")
    return key


def check_handle(field: str, handle: str, fields: Fields) -> None:
    """Note a text that is not a session handle."""
    if not is_session_handle(handle):
        fields.add(field, "a session handle, `sh_` and 22 letters and digits")
