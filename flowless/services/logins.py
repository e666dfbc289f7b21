"""How a session begins, and how its user proves again who they are."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from flowless.domain.attempts import AttemptKind
from flowless.domain.audit import Action, Actor
from flowless.domain.contexts import check_required_context
from flowless.domain.fields import Fields
from flowless.domain.sessions import ActiveSession, Session, SessionLimits
from flowless.domain.users import User
from flowless.ports.stores import SessionRoom, SessionStore
from flowless.services.attempts import AttemptLimiter
from flowless.services.credentials import UserPasswords, check_password, login_refused
from flowless.services.sessions import NewSession, Sessions
from flowless.services.users import Users, check_login
from trust_core import modes
from trust_core.clock import Clock
from trust_core.identifiers import RandomBytes, digest, new_session_handle, new_session_id
from trust_core.modes import RequestContext

PASSWORD_METHOD: Final = "password"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where a session begins: the request context that it is bound to, its name in lists, through which bridge."""

    context: RequestContext
    name: str
    bridge_id: str


def check_device(device: Device, fields: Fields) -> None:
    """Note what cannot be bound. The client IP is required: a session is bound to the address that logs in."""
    check_required_context(device.context, fields)
    fields.text("device_name", device.name, most=128)


class SessionFactory:
    """Makes the record of a session that begins now; the stores put it where it belongs."""

    def __init__(self, *, limits: SessionLimits, clock: Clock, random: RandomBytes) -> None:
        self._limits = limits
        self._clock = clock
        self._random = random

    def begin(self, user_id: str, epoch: int, *, method: str, device: Device) -> tuple[str, Session]:
        """Make a session id, which exists here and in the answer only, and the record that holds its digest."""
        now = self._clock.now()
        session_id = new_session_id(self._random)
        return session_id, Session(
            digest=digest(session_id),
            handle=new_session_handle(self._random),
            user_id=user_id,
            epoch=epoch,
            binding=modes.bind(device.context, self._random(32)),
            methods=(method,),
            device_name=device.name,
            bridge_id=device.bridge_id,
            created_at=now,
            authenticated_at=now,
            last_seen_at=now,
            expires_at=now + self._limits.absolute,
        )

    def room(self) -> SessionRoom:
        """Say how many live sessions a user may have now."""
        return SessionRoom(most=self._limits.per_user, seen_after=self._clock.now() - self._limits.idle)

    def opened(self, session_id: str, session: Session, user: User) -> NewSession:
        """Show a session that has just begun."""
        return NewSession(
            session_id=session_id,
            active=ActiveSession(
                session=session,
                user=user,
                absolute_remaining=self._limits.absolute,
                idle_remaining=min(self._limits.idle, self._limits.absolute),
                authentication_age=timedelta(0),
            ),
            revision=session.id_revision,
        )


class Logins:
    """Logins by password."""

    def __init__(
        self,
        *,
        store: SessionStore,
        sessions: Sessions,
        users: Users,
        passwords: UserPasswords,
        factory: SessionFactory,
        attempts: AttemptLimiter,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._users = users
        self._passwords = passwords
        self._factory = factory
        self._attempts = attempts

    async def log_in(self, *, login: str, password: str, device: Device, by: Actor) -> NewSession:
        """Check a password and create a session.

        Errors: INVALID_FIELD, LOGIN_REFUSED, HASHING_OVERLOADED, TOO_MANY_ATTEMPTS.

        Unknown user, wrong password, disabled user and user without a password cost the same and get the same answer.
        """
        fields = Fields()
        check_login(login, fields)
        check_password("password", password, fields)
        check_device(device, fields)
        fields.refuse()
        self._passwords.require_room()
        account = self._users.account_of(login)
        async with self._attempts.attempt(AttemptKind.LOGIN, account=account, context=device.context, by=by):
            return await self._log_in(login, password, device=device, by=by)

    async def _log_in(self, login: str, password: str, *, device: Device, by: Actor) -> NewSession:
        found = await self._users.credentials_of(login)
        verdict = await self._passwords.prove(found, password, action=Action.SESSION_LOGIN, by=by)
        if found is None:
            raise login_refused()
        password_hash = await self._passwords.rehashed(found, password) if verdict.outdated else found.password_hash
        session_id, session = self._factory.begin(found.user.id, found.epoch, method=PASSWORD_METHOD, device=device)
        event = by.event(
            Action.SESSION_LOGIN,
            now=session.created_at,
            subject=session.handle,
            user_id=found.user.id,
            method=PASSWORD_METHOD,
        )
        added = password_hash and await self._store.add(
            session, expected_hash=password_hash, room=self._factory.room(), event=event
        )
        if not added:
            await self._passwords.refused(found.user.id, action=Action.SESSION_LOGIN, by=by)
            raise login_refused()
        return self._factory.opened(session_id, added, found.user)

    async def reauthenticate(
        self, session_id: str, password: str, *, context: RequestContext, by: Actor
    ) -> NewSession:
        """Check the password of an active session's user again; the session gets a new id and a new login time.

        Errors: INVALID_FIELD, SESSION_NOT_ACTIVE, LOGIN_REFUSED, HASHING_OVERLOADED, TOO_MANY_ATTEMPTS.
        """
        fields = Fields()
        check_password("password", password, fields)
        check_required_context(context, fields)
        fields.refuse()
        self._passwords.require_room()
        active = await self._sessions.active(session_id)
        user_id = active.user.id
        attempt = self._attempts.attempt(
            AttemptKind.REAUTHENTICATE, account=user_id, context=context, by=by, user_id=user_id
        )
        async with attempt:
            found = await self._users.credentials(user_id)
            await self._passwords.prove(found, password, action=Action.SESSION_REAUTHENTICATE, by=by)
        return await self._sessions.replace_id(
            active,
            authenticated=(PASSWORD_METHOD,),
            action=Action.SESSION_REAUTHENTICATE,
            by=by,
        )
