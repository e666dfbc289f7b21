"""Use cases of users: register, find, change, disable, delete."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowless.domain.attempts import login_account
from flowless.domain.audit import Action, Actor
from flowless.domain.fields import Fields
from flowless.domain.users import (
    EMAIL_BYTES,
    PROFILE_FIELDS,
    Profile,
    User,
    UserStatus,
    canonical_user_name,
    checked_profile,
)
from flowless.ports.addresses import EmailAddresses
from flowless.ports.passwords import PasswordHasher
from flowless.ports.stores import Credentials, NewUser, UserStore
from flowless.services.passwords import PasswordPolicy, words_of
from trust_core.clock import Clock
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import RandomBytes, is_user_id, new_user_id

DEFAULT_PAGE = 50
MAX_PAGE = 500


def checked_page_size(size: int, fields: Fields) -> int:
    """Page size to use: 0 means the default."""
    if not 0 <= size <= MAX_PAGE:
        fields.add("page_size", f"0 to {MAX_PAGE}")
    return size or DEFAULT_PAGE


def check_user_id(user_id: str, fields: Fields) -> None:
    """Note a text that is not a user id."""
    if not is_user_id(user_id):
        fields.add("user_id", "a user id, `usr_` and 22 letters and digits")


def no_such_user() -> TrustError:
    """Build the error for a user that does not exist."""
    return TrustError(Reason.USER_NOT_FOUND, "no such user")


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPage:
    """One page of users; `next_after` is empty at the end."""

    users: Sequence[User]
    next_after: str


class Users:
    """Every change to what a session's payload carries goes through the revocation log, in the store."""

    def __init__(
        self,
        *,
        store: UserStore,
        hasher: PasswordHasher,
        policy: PasswordPolicy,
        addresses: EmailAddresses,
        clock: Clock,
        random: RandomBytes,
    ) -> None:
        self._store = store
        self._hasher = hasher
        self._policy = policy
        self._addresses = addresses
        self._clock = clock
        self._random = random

    async def register(self, *, email: str, password: str, profile: Profile, by: Actor) -> User:
        """Create a user; with an empty password one who logs in by trust tokens.

        Errors: INVALID_FIELD, EMAIL_TAKEN, USER_NAME_TAKEN, HASHING_OVERLOADED.
        """
        fields = Fields()
        canonical_email = self._addresses.canonical(email)
        if canonical_email is None:
            fields.add("email", f"an e-mail address of at most {EMAIL_BYTES} bytes")
        profile = checked_profile(profile, fields)
        form = ""
        if password:
            form = self._policy.check("password", password, own_words=words_of(email, profile), fields=fields)
        fields.refuse()
        if form:
            await self._policy.refuse_breached("password", form)
        now = self._clock.now()
        user = User(
            id=new_user_id(self._random),
            email=email,
            email_verified=False,
            status=UserStatus.ACTIVE,
            profile=profile,
            created_at=now,
            updated_at=now,
        )
        password_hash = await self._hasher.hash(form) if form else ""
        new = NewUser(user=user, canonical_email=canonical_email or "", password_hash=password_hash)
        await self._store.add(
            new,
            event=by.event(
                Action.USER_REGISTER, now=now, subject=user.id, user_id=user.id, roles=list(user.profile.roles)
            ),
        )
        return user

    async def get(self, user_id: str) -> User:
        """Read one user. Errors: INVALID_FIELD, USER_NOT_FOUND."""
        self._check(user_id)
        user = await self._store.get(user_id)
        if user is None:
            raise no_such_user()
        return user

    async def credentials(self, user_id: str) -> Credentials | None:
        """Find by id, with what a login compares."""
        return await self._store.credentials(user_id)

    def account_of(self, login: str) -> str:
        """Name whom a login is about, whether there is such a user or not, in one spelling; for limits on attempts.

        The e-mail address and the user name of one user are two accounts here. To count them together, somebody
        would have to look whose they are, and whoever tries both would learn that they belong together.
        """
        canonical = self._addresses.canonical(login) if "@" in login else None
        return login_account(canonical or login.lower())

    async def credentials_of(self, login: str) -> Credentials | None:
        """Find by e-mail address or user name; anything else finds nobody."""
        if "@" in login:
            canonical = self._addresses.canonical(login)
            return None if canonical is None else await self._store.credentials_by_email(canonical)
        if not login or not login.isascii():
            return None
        return await self._store.credentials_by_user_name(canonical_user_name(login))

    async def look_up(self, login: str) -> User:
        """Find one user by e-mail address or user name. Errors: INVALID_FIELD, USER_NOT_FOUND."""
        fields = Fields()
        check_login(login, fields)
        fields.refuse()
        found = await self.credentials_of(login)
        if found is None:
            raise no_such_user()
        return found.user

    async def list(self, *, page_size: int, after: str) -> UserPage:
        """List users in the order of their ids, from after that id. Errors: INVALID_FIELD."""
        fields = Fields()
        size = checked_page_size(page_size, fields)
        if after and not is_user_id(after):
            fields.add("page_token", "a token from the answer before, or empty")
        fields.refuse()
        found = await self._store.list(after=after, limit=size + 1)
        return UserPage(users=found[:size], next_after=found[size - 1].id if len(found) > size else "")

    async def update(self, user_id: str, profile: Profile, only: frozenset[str], *, by: Actor) -> tuple[User, int]:
        """Change the named profile fields. Errors: INVALID_FIELD, USER_NOT_FOUND, USER_NAME_TAKEN."""
        fields = Fields()
        check_user_id(user_id, fields)
        for name in sorted(only - frozenset(PROFILE_FIELDS)):
            fields.add("update_mask", f"{ascii(name)[:64]} cannot be changed; of: {', '.join(PROFILE_FIELDS)}")
        if not only:
            fields.add("update_mask", "required")
        profile = checked_profile(profile, fields, only=only)
        fields.refuse()
        now = self._clock.now()
        event = by.event(
            Action.USER_UPDATE,
            now=now,
            subject=user_id,
            user_id=user_id,
            fields=sorted(only),
            roles=list(profile.roles) if "roles" in only else [],
        )
        updated = await self._store.update(user_id, profile, only, now=now, event=event)
        if updated is None:
            raise no_such_user()
        return updated

    async def disable(self, user_id: str, *, by: Actor) -> int:
        """Forbid logins, revoke all sessions, void all trust tokens. Errors: INVALID_FIELD, USER_NOT_FOUND."""
        return await self._set_status(user_id, UserStatus.DISABLED, by=by)

    async def enable(self, user_id: str, *, by: Actor) -> int:
        """Allow logins again. Errors: INVALID_FIELD, USER_NOT_FOUND."""
        return await self._set_status(user_id, UserStatus.ACTIVE, by=by)

    async def _set_status(self, user_id: str, status: UserStatus, *, by: Actor) -> int:
        self._check(user_id)
        now = self._clock.now()
        action = Action.USER_DISABLE if status is UserStatus.DISABLED else Action.USER_ENABLE
        event = by.event(action, now=now, subject=user_id, user_id=user_id)
        revision = await self._store.set_status(user_id, status, now=now, event=event)
        if revision is None:
            raise no_such_user()
        return revision

    async def delete(self, user_id: str, *, by: Actor) -> int:
        """Erase the user with all sessions and trust tokens; idempotent. Errors: INVALID_FIELD."""
        self._check(user_id)
        now = self._clock.now()
        event = by.event(Action.USER_DELETE, now=now, subject=user_id, user_id=user_id)
        return await self._store.delete(user_id, now=now, event=event)

    @staticmethod
    def _check(user_id: str) -> None:
        fields = Fields()
        check_user_id(user_id, fields)
        fields.refuse()


def check_login(login: str, fields: Fields) -> None:
    """Note a login name that is missing or too long."""
    if not login:
        fields.add("login", "required: an e-mail address or user name")
    else:
        fields.utf8("login", login, most=EMAIL_BYTES)
