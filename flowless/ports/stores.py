"""What the services need of storage. Every store passes `tests/conformance`.

Each method is one transaction. Those that return a revision have written their effect and the log row in that
transaction, or changed nothing because nothing was to be done; the revision is then the log's present end, which
is as good for `min_revision`. An `event` is written to the audit log in that transaction if and only if something
changed; where only the store knows whom it concerns, the store says so in it. Once begun, a write is finished even
if the caller is cancelled. Storage that fails raises TrustError STORAGE_UNAVAILABLE or STORAGE_FULL; no driver's
exception leaves an adapter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from flowless.domain.audit import AuditEvent
from flowless.domain.bridges import Bridge, BridgeSecret, BridgeUse
from flowless.domain.revocations import LogHead, Revocation
from flowless.domain.sessions import KeptSession, Session, SessionActivity, SessionRead
from flowless.domain.users import Profile, User, UserStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user with what a login compares; an empty hash matches no password."""

    user: User
    password_hash: str
    epoch: int
    token_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """A user to add, with the canonical forms that must be unique."""

    user: User
    canonical_email: str
    password_hash: str


class Addition(StrEnum):
    """What became of one of many users to be added."""

    ADDED = "added"
    PRESENT = "present"
    """Another user has the e-mail address; it is left as it is."""
    USER_NAME_TAKEN = "user_name_taken"


class UserStore(Protocol):
    """Users and their password hashes."""

    async def add(self, new: NewUser, *, event: AuditEvent | None = None) -> None:
        """Add a user; TrustError EMAIL_TAKEN or USER_NAME_TAKEN when another has the name."""
        ...

    async def add_many(self, new: Sequence[NewUser], *, event: AuditEvent | None = None) -> Sequence[Addition]:
        """Add users, in one transaction; say of each what became of it, in order.

        TrustError CONFLICT when somebody else took a name meanwhile; nothing is added then, and repeating is safe.
        """
        ...

    async def get(self, user_id: str) -> User | None:
        """Read one user."""
        ...

    async def credentials(self, user_id: str) -> Credentials | None:
        """Read a user with the password hash."""
        ...

    async def credentials_by_email(self, canonical_email: str) -> Credentials | None:
        """Find by canonical e-mail address."""
        ...

    async def credentials_by_user_name(self, canonical_user_name: str) -> Credentials | None:
        """Find by canonical user name."""
        ...

    async def list(self, *, after: str, limit: int) -> Sequence[User]:
        """List users with an id greater than `after`, in the order of ids."""
        ...

    async def update(
        self,
        user_id: str,
        profile: Profile,
        only: frozenset[str],
        *,
        now: datetime,
        event: AuditEvent | None = None,
    ) -> tuple[User, int] | None:
        """Change the named profile fields; `None` when there is no such user; TrustError USER_NAME_TAKEN.

        Other roles than before move the user's `privilege_revision` to this change.
        """
        ...

    async def set_status(
        self, user_id: str, status: UserStatus, *, now: datetime, event: AuditEvent | None = None
    ) -> int | None:
        """Set the status; disabling also revokes the user's sessions and voids trust tokens. `None`: no such user."""
        ...

    async def delete(self, user_id: str, *, now: datetime, event: AuditEvent | None = None) -> int:
        """Erase the user with all sessions and trust tokens."""
        ...

    async def set_password(
        self,
        user_id: str,
        *,
        expected_hash: str,
        new_hash: str,
        kept: KeptSession | None = None,
        now: datetime,
        event: AuditEvent | None = None,
    ) -> tuple[int, bool] | None:
        """Replace the hash, revoke the user's sessions but one, void trust tokens; `None` when the hash is another.

        Says with the revision whether the one was kept: only a live session of this user's is, under its new digest.
        """
        ...

    async def upgrade_hash(self, user_id: str, *, expected_hash: str, new_hash: str) -> None:
        """Replace the hash of the same password by a better one; nothing happens when it changed meanwhile."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRoom:
    """How many live sessions a user may have; those not used since `seen_after` do not count."""

    most: int
    seen_after: datetime


class SessionStore(Protocol):
    """Sessions by digest and by handle."""

    async def add(
        self,
        session: Session,
        *,
        expected_hash: str,
        room: SessionRoom | None = None,
        event: AuditEvent | None = None,
    ) -> Session | None:
        """Add a session if its user is still active, with this hash and epoch; revoke the oldest over the limit.

        Returns the session with its `id_revision`, or `None` when the user changed since the password was checked:
        the login must then be refused.
        """
        ...

    async def read(self, digest: bytes) -> SessionRead:
        """Read session, user and the log's end in one snapshot."""
        ...

    async def read_many(self, digests: Sequence[bytes]) -> Mapping[bytes, SessionRead]:
        """Like `read` for many at once, in one snapshot; digests that are nobody's are left out."""
        ...

    async def revoke(self, digest: bytes, *, now: datetime, event: AuditEvent | None = None) -> int:
        """Revoke by digest."""
        ...

    async def revoke_handle(self, handle: str, *, now: datetime, event: AuditEvent | None = None) -> int:
        """Revoke by handle."""
        ...

    async def revoke_user(
        self, user_id: str, *, except_handle: str, now: datetime, event: AuditEvent | None = None
    ) -> int:
        """Revoke all of a user's sessions but the one with that handle; the cost does not depend on their number."""
        ...

    async def replace_digest(
        self,
        digest: bytes,
        *,
        expected_epoch: int,
        new: bytes,
        authenticated: tuple[str, ...] | None = None,
        now: datetime,
        event: AuditEvent | None = None,
    ) -> int | None:
        """Give a live session a new digest and revoke the old one; `None` when it is not live or the epoch moved.

        `authenticated` names the methods when the user has just proven again who they are.
        """
        ...

    async def list_live(
        self, user_id: str, *, now: datetime, seen_after: datetime, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Session]:
        """List live sessions, newest first, from before that creation time and handle."""
        ...

    async def recently_used(
        self,
        bridge_id: str,
        *,
        before: tuple[datetime, bytes] | None,
        seen_after: datetime,
        now: datetime,
        limit: int,
    ) -> Sequence[SessionRead]:
        """Read the live sessions that this bridge used last, most recently used first, in one snapshot.

        `before` is the moment of last use and the digest of the last session of the page before. A session that is
        used between two pages moves to the front and may be left out; none comes twice under one digest.
        """
        ...

    async def touch(
        self, activities: Sequence[SessionActivity], *, bridge_id: str, now: datetime, interval_seconds: float
    ) -> None:
        """Record use by a bridge, at most once per session and interval; never moves `last_seen_at` back."""
        ...


class RevocationLog(Protocol):
    """The log, read-only: stores append to it inside their own transactions."""

    async def head(self) -> LogHead:
        """Read the log's end."""
        ...

    async def after(self, revision: int, *, until: int, limit: int) -> Sequence[Revocation]:
        """Read rows with `revision < row.revision <= until`, in order, at most `limit`."""
        ...


class BridgeStore(Protocol):
    """Bridges and the digests of their secrets."""

    async def add(self, bridge: Bridge, *, event: AuditEvent | None = None) -> None:
        """Add a bridge; TrustError BRIDGE_NAME_TAKEN when another has the name."""
        ...

    async def get(self, bridge_id: str) -> Bridge | None:
        """Read one bridge, revoked or not."""
        ...

    async def find(self, name: str) -> Bridge | None:
        """Find by name, revoked or not."""
        ...

    async def list(self) -> Sequence[Bridge]:
        """List all bridges in the order of their names."""
        ...

    async def add_secret(
        self,
        bridge_id: str,
        secret: BridgeSecret,
        *,
        others_expire_at: datetime,
        event: AuditEvent | None = None,
    ) -> int | None:
        """Add a secret and let the live ones expire then at the latest; `None` when there is no live bridge."""
        ...

    async def bind(
        self, bridge_id: str, client_id: str, *, now: datetime, event: AuditEvent | None = None
    ) -> int | None:
        """Set whose certificate a bridge needs, empty for nobody's; `None` when there is no live bridge."""
        ...

    async def record_uses(self, uses: Sequence[BridgeUse]) -> None:
        """Note when secrets were used last; never back, and nothing for those that are gone."""
        ...

    async def revoke(self, bridge_id: str, *, now: datetime, event: AuditEvent | None = None) -> int | None:
        """Revoke a bridge and void the trust tokens that it issued; `None` when there is no such bridge."""
        ...
