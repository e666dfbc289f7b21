"""Use cases of sessions: login, validation, rotation, listing, revocation, activity."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from flowless.domain.fields import Fields
from flowless.domain.passwords import MAX_CHARS, normalised
from flowless.domain.sessions import ActiveSession, Session, SessionActivity, SessionLimits, judge
from flowless.domain.users import UserStatus
from flowless.ports.passwords import PasswordHasher
from flowless.ports.stores import Credentials, SessionStore, UserStore
from flowless.services.session_tiers import SessionReads
from flowless.services.users import Users, check_login, check_user_id, checked_page_size
from trust_core import modes
from trust_core.clock import Clock
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import (
    DIGEST_BYTES,
    RandomBytes,
    digest,
    is_session_handle,
    new_session_handle,
    new_session_id,
    session_digest,
)
from trust_core.modes import DenialReason, RequestContext, ValidationMode

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
class SessionPage:
    """One page of sessions; `next_before` is absent at the end."""

    sessions: Sequence[Session]
    next_before: tuple[datetime, str] | None


class Sessions:
    """From login to revocation."""

    def __init__(
        self,
        *,
        store: SessionStore,
        reads: SessionReads,
        user_store: UserStore,
        users: Users,
        hasher: PasswordHasher,
        limits: SessionLimits,
        activity_interval: timedelta,
        clock: Clock,
        random: RandomBytes,
    ) -> None:
        self._store = store
        self._reads = reads
        self._user_store = user_store
        self._users = users
        self._hasher = hasher
        self._limits = limits
        self._activity_interval = activity_interval
        self._clock = clock
        self._random = random

    async def log_in(
        self, *, login: str, password: str, context: RequestContext, device_name: str, bridge_id: str
    ) -> NewSession:
        """Check a password and create a session. Errors: INVALID_FIELD, LOGIN_REFUSED, HASHING_OVERLOADED.

        Unknown user, wrong password and disabled user cost the same and get the same answer.
        """
        fields = Fields()
        check_login(login, fields)
        if not password or len(password) > 4 * MAX_CHARS:
            fields.add("password", f"required, at most {MAX_CHARS} characters")
        check_context(context, fields)
        if not context.client_ip:
            fields.add("context.client_ip", "required: a session is bound to the address that logs in")
        fields.text("device_name", device_name, most=128)
        fields.refuse()
        found = await self._users.credentials_of(login)
        verdict = await self._hasher.verify(found.password_hash if found else None, normalised(password))
        refused = TrustError(Reason.LOGIN_REFUSED, "wrong user or password")
        if found is None or not verdict.matches or found.user.status is not UserStatus.ACTIVE:
            raise refused
        password_hash = await self._rehashed(found, password) if verdict.outdated else found.password_hash
        if password_hash is None:
            raise refused
        now = self._clock.now()
        session_id = new_session_id(self._random)
        session = Session(
            digest=digest(session_id),
            handle=new_session_handle(self._random),
            user_id=found.user.id,
            epoch=found.epoch,
            binding=modes.bind(context, self._random(32)),
            methods=("password",),
            device_name=device_name,
            bridge_id=bridge_id,
            created_at=now,
            authenticated_at=now,
            last_seen_at=now,
            expires_at=now + self._limits.absolute,
        )
        revision = await self._store.add(session, expected_hash=password_hash)
        if revision is None:
            raise refused
        active = ActiveSession(
            session=session,
            user=found.user,
            absolute_remaining=self._limits.absolute,
            idle_remaining=min(self._limits.idle, self._limits.absolute),
        )
        return NewSession(session_id=session_id, active=active, revision=revision)

    async def _rehashed(self, found: Credentials, password: str) -> str | None:
        """Hash a right password with today's profile; return the hash that is stored then, `None` if it changed.

        Two logins at once both come here. Whichever is second finds the first one's hash: as good as its own.
        """
        form = normalised(password)
        try:
            better = await self._hasher.hash(form)
        except TrustError as error:
            if error.reason is not Reason.HASHING_OVERLOADED:
                raise
            return found.password_hash  # a right password is not refused for a better hash; the next login has it
        await self._user_store.upgrade_hash(found.user.id, expected_hash=found.password_hash, new_hash=better)
        stored = await self._user_store.credentials(found.user.id)
        if stored is None:
            return None
        if stored.password_hash != better and not (await self._hasher.verify(stored.password_hash, form)).matches:
            return None
        return stored.password_hash

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
            reason = modes.check(mode, result.session.binding, context)
            if reason is not None:
                result = reason
        return Validation(result=result, revision=read.revision, from_tier=found.from_tier)

    async def log_out(self, session_id: str) -> int:
        """Revoke by session id; idempotent. Errors: INVALID_FIELD."""
        return await self._store.revoke(self._digest(session_id), now=self._clock.now())

    async def rotate(self, session_id: str) -> NewSession:
        """Replace the session id; the old one ends in the same transaction. Errors: SESSION_NOT_ACTIVE."""
        old = self._digest(session_id)
        not_active = TrustError(Reason.SESSION_NOT_ACTIVE, "the session is not active")
        read = await self._store.read(old)
        now = self._clock.now()
        active = judge(read, now=now, limits=self._limits)
        if not isinstance(active, ActiveSession):
            raise not_active
        fresh = new_session_id(self._random)
        revision = await self._store.replace_digest(
            old, expected_epoch=active.session.epoch, new=digest(fresh), now=now
        )
        if revision is None:
            raise not_active
        return NewSession(session_id=fresh, active=active, revision=revision)

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

    async def revoke(self, handle: str) -> int:
        """Revoke by handle; idempotent. Errors: INVALID_FIELD."""
        fields = Fields()
        check_handle("handle", handle, fields)
        fields.refuse()
        return await self._store.revoke_handle(handle, now=self._clock.now())

    async def revoke_all_of_user(self, user_id: str, *, except_handle: str) -> int:
        """Revoke all of a user's sessions but one; idempotent. Errors: INVALID_FIELD."""
        fields = Fields()
        check_user_id(user_id, fields)
        if except_handle:
            check_handle("except_handle", except_handle, fields)
        fields.refuse()
        return await self._store.revoke_user(user_id, except_handle=except_handle, now=self._clock.now())

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

    @staticmethod
    def _digest(session_id: str) -> bytes:
        key = session_digest(session_id)
        if key is None:
            fields = Fields()
            fields.add("session_id", "a session id, `sess_` and 49 letters and digits")
            fields.refuse()
            raise AssertionError("refuse raises")
        return key


def check_context(context: RequestContext, fields: Fields) -> None:
    """Note parts of a request context that are too long, and an address that is none."""
    if context.client_ip and modes.pack_ip(context.client_ip) is None:
        fields.add("context.client_ip", "an IPv4 or IPv6 address")
    fields.utf8("context.device_fingerprint", context.device_fingerprint, most=512)
    fields.utf8("context.user_agent", context.user_agent, most=1024)


def check_handle(field: str, handle: str, fields: Fields) -> None:
    """Note a text that is not a session handle."""
    if not is_session_handle(handle):
        fields.add(field, "a session handle, `sh_` and 22 letters and digits")
