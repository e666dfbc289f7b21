"""Import of another system's users with their password hashes, batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from flowless.domain.audit import Action, Actor
from flowless.domain.fields import Fields
from flowless.domain.users import EMAIL_BYTES, Profile, User, UserStatus, checked_profile
from flowless.ports.addresses import EmailAddresses
from flowless.ports.passwords import PasswordHasher
from flowless.ports.stores import Addition, NewUser, UserStore
from trust_core.clock import Clock
from trust_core.errors import TrustError
from trust_core.identifiers import RandomBytes, new_user_id

MAX_BATCH: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedUser:
    """One user of another system; `number` names the record in the answer."""

    number: int
    email: str
    email_verified: bool
    password_hash: str
    profile: Profile
    disabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a record was refused. The reason holds nothing of the record."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What became of a batch."""

    added: int
    present: int
    rejections: Sequence[Rejection]


class UserImport:
    """A record that is refused stops nothing; one whose address is here already is left as it is.

    So a run that broke off is repeated as a whole. A hash is taken as it is if this Flowless can verify it, at a cost
    that it allows, and replaced by today's at the user's first login.
    """

    def __init__(
        self,
        *,
        store: UserStore,
        hasher: PasswordHasher,
        addresses: EmailAddresses,
        clock: Clock,
        random: RandomBytes,
    ) -> None:
        self._store = store
        self._hasher = hasher
        self._addresses = addresses
        self._clock = clock
        self._random = random

    async def add(self, users: Sequence[ImportedUser], *, by: Actor, dry_run: bool = False) -> ImportResult:
        """Add a batch, in one transaction. Errors: INVALID_FIELD when it is empty or too large; CONFLICT."""
        fields = Fields()
        if not 1 <= len(users) <= MAX_BATCH:
            fields.add("users", f"1 to {MAX_BATCH} items")
        fields.refuse()
        checked: list[tuple[int, NewUser]] = []
        rejections: list[Rejection] = []
        for user in users:
            try:
                checked.append((user.number, self._checked(user)))
            except TrustError as error:
                rejections.append(Rejection(number=user.number, reason=error.message))
        additions: Sequence[Addition] = []
        if checked and not dry_run:
            event = by.event(Action.USER_IMPORT, now=self._clock.now())
            additions = await self._store.add_many([new for _, new in checked], event=event)
        for (number, _), addition in zip(checked, additions, strict=False):
            if addition is Addition.USER_NAME_TAKEN:
                rejections.append(Rejection(number=number, reason="user_name: another user has this user name"))
        return ImportResult(
            added=additions.count(Addition.ADDED),
            present=additions.count(Addition.PRESENT),
            rejections=sorted(rejections, key=lambda rejection: rejection.number),
        )

    def _checked(self, user: ImportedUser) -> NewUser:
        fields = Fields()
        canonical = self._addresses.canonical(user.email)
        if canonical is None:
            fields.add("email", f"an e-mail address of at most {EMAIL_BYTES} bytes")
        if user.password_hash and not self._hasher.can_verify(user.password_hash):
            fields.add("password_hash", "a PHC string of Argon2, bcrypt, scrypt or PBKDF2 within the allowed cost")
        profile = checked_profile(user.profile, fields)
        fields.refuse()
        now = self._clock.now()
        return NewUser(
            user=User(
                id=new_user_id(self._random),
                email=user.email,
                email_verified=user.email_verified,
                status=UserStatus.DISABLED if user.disabled else UserStatus.ACTIVE,
                profile=profile,
                created_at=now,
                updated_at=now,
            ),
            canonical_email=canonical or "",
            password_hash=user.password_hash,
        )
