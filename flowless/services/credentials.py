"""Use cases of passwords that are there: prove one, replace one.

Whoever is to be proven goes through `UserPasswords.prove`, so that a wrong password, an unknown user, a user who is
disabled and one without a password cost the same, get the same answer, and leave one audit event each.
"""

from dataclasses import dataclass

from flowless.domain.attempts import AttemptKind
from flowless.domain.audit import Action, Actor, Outcome
from flowless.domain.contexts import check_required_context
from flowless.domain.fields import Fields
from flowless.domain.passwords import MAX_CHARS, RAW_MAX_CHARS, normalised
from flowless.domain.sessions import KeptSession
from flowless.domain.users import UserStatus
from flowless.ports.audit import AuditTrail
from flowless.ports.passwords import PasswordHasher, Verdict
from flowless.ports.stores import Credentials, UserStore
from flowless.services.attempts import AttemptLimiter
from flowless.services.passwords import PasswordPolicy, words_of
from flowless.services.users import check_user_id
from trust_core.clock import Clock
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import RandomBytes, digest, new_session_id, session_digest
from trust_core.modes import RequestContext


def login_refused() -> TrustError:
    """Build the one answer to every proof that fails."""
    return TrustError(Reason.LOGIN_REFUSED, "wrong user or password")


def check_password(field: str, password: str, fields: Fields) -> None:
    """Note a password to compare that is missing, or longer than any that could have been set."""
    if not password or len(password) > RAW_MAX_CHARS or len(normalised(password)) > MAX_CHARS:
        fields.add(field, f"required, at most {MAX_CHARS} characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordChange:
    """What a change of password wrote; `session_id` is the new id of the session that stays, or empty."""

    revision: int
    session_id: str


class UserPasswords:
    """Proves and replaces passwords."""

    def __init__(
        self,
        *,
        users: UserStore,
        hasher: PasswordHasher,
        policy: PasswordPolicy,
        audit: AuditTrail,
        attempts: AttemptLimiter,
        clock: Clock,
        random: RandomBytes,
    ) -> None:
        self._users = users
        self._hasher = hasher
        self._policy = policy
        self._audit = audit
        self._attempts = attempts
        self._clock = clock
        self._random = random

    def require_room(self) -> None:
        """Raise HASHING_OVERLOADED if no password can be compared now, before any work is done for one.

        So a storm of logins costs the event loop, which validates sessions beside it, as little as can be.
        """
        self._hasher.require_room()

    async def prove(self, found: Credentials | None, password: str, *, action: Action, by: Actor) -> Verdict:
        """Compare a password; leave an event and raise LOGIN_REFUSED when it is not this active user's.

        Errors: LOGIN_REFUSED, HASHING_OVERLOADED.
        """
        verdict = await self._hasher.verify(
            found.password_hash if found else None, normalised(password), as_typed=password
        )
        if found is None or not verdict.matches or found.user.status is not UserStatus.ACTIVE:
            user_id = found.user.id if found else ""
            await self.refused(user_id, action=action, by=by)
        return verdict

    async def refused(self, user_id: str, *, action: Action, by: Actor) -> None:
        """Leave an event of a proof that failed, then raise LOGIN_REFUSED."""
        await self._audit.record(
            by.event(action, now=self._clock.now(), outcome=Outcome.REFUSED, subject=user_id, user_id=user_id)
        )
        raise login_refused()

    async def rehashed(self, found: Credentials, password: str) -> str | None:
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
        await self._users.upgrade_hash(found.user.id, expected_hash=found.password_hash, new_hash=better)
        stored = await self._users.credentials(found.user.id)
        if stored is None:
            return None
        if stored.password_hash != better and not (await self._hasher.verify(stored.password_hash, form)).matches:
            return None
        return stored.password_hash

    async def change(
        self, user_id: str, *, current: str, new: str, session_id: str, context: RequestContext, by: Actor
    ) -> PasswordChange:
        """Replace the password, revoke the user's sessions but one, void trust tokens; the one gets a new id.

        Errors: INVALID_FIELD, LOGIN_REFUSED, HASHING_OVERLOADED, TOO_MANY_ATTEMPTS.
        """
        fields = Fields()
        check_user_id(user_id, fields)
        check_password("current_password", current, fields)
        kept = session_digest(session_id)
        if session_id and kept is None:
            fields.add("session_id", "a session id, `sess_` and 49 letters and digits")
        check_required_context(context, fields)
        form = self._policy.check("new_password", new, own_words=(), fields=fields)
        fields.refuse()
        attempt = self._attempts.attempt(
            AttemptKind.PASSWORD_CHANGE, account=user_id, context=context, by=by, user_id=user_id
        )
        async with attempt:
            found = await self._users.credentials(user_id)
            await self.prove(found, current, action=Action.PASSWORD_CHANGE, by=by)
        if found is None:
            raise login_refused()
        # Whose words they are is known, and may be told, only now.
        own_words = words_of(found.user.email, found.user.profile)
        self._policy.check("new_password", new, own_words=own_words, fields=fields)
        fields.refuse()
        await self._policy.refuse_breached("new_password", form)
        new_hash = await self._hasher.hash(form)
        fresh = new_session_id(self._random)
        now = self._clock.now()
        changed = await self._users.set_password(
            user_id,
            expected_hash=found.password_hash,
            new_hash=new_hash,
            kept=None if kept is None else KeptSession(digest=kept, new_digest=digest(fresh)),
            now=now,
            event=by.event(Action.PASSWORD_CHANGE, now=now, subject=user_id, user_id=user_id),
        )
        if changed is None:
            raise login_refused()
        revision, is_kept = changed
        return PasswordChange(revision=revision, session_id=fresh if is_kept else "")
