"""Sessions: the record, and whether it is active. One pure rule, used wherever a session is judged."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from flowless.domain.users import User, UserStatus
from trust_core.modes import Binding, DenialReason


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """How long sessions live, and how many of one user's at once: nothing lives for ever or grows without end."""

    absolute: timedelta
    idle: timedelta
    per_user: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as stored. The session id itself is nowhere: `digest` is its SHA-256.

    `id_revision` is the log's end when the session id was made.
    """

    digest: bytes
    handle: str
    user_id: str
    epoch: int
    binding: Binding
    methods: tuple[str, ...]
    device_name: str
    bridge_id: str
    created_at: datetime
    authenticated_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    id_revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSession:
    """A session that outlives a change of its user's password, under a new session id."""

    digest: bytes
    new_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRead:
    """What one snapshot of storage says of a digest.

    `revision` is the end of the revocation log in that same snapshot: the answer takes every revocation up to
    it into account, and none after it.
    """

    revision: int
    session: Session | None = None
    user: User | None = None
    user_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveSession:
    """A session that is active, with the time left by the clock that judged it."""

    session: Session
    user: User
    absolute_remaining: timedelta
    idle_remaining: timedelta
    authentication_age: timedelta
    """Since the user last proved who they are."""

    @property
    def rotation_due(self) -> bool:
        """Whether the user's roles changed after the session id was made (OWASP ASVS 5.0 7.2.4: no fixation).

        Positions in the log are compared, not times: replicas' clocks differ.
        """
        return self.user.privilege_revision > self.session.id_revision


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionActivity:
    """Use of one session, reported by a sidecar: how long before the report it was last used."""

    digest: bytes
    idle_for: timedelta


def judge(read: SessionRead, *, now: datetime, limits: SessionLimits) -> ActiveSession | DenialReason:
    """Say whether the session is active, or why not. The order puts what an operator decided before mere expiry."""
    session, user = read.session, read.user
    if session is None or user is None:
        return DenialReason.UNKNOWN
    if user.status is not UserStatus.ACTIVE:
        return DenialReason.USER_DISABLED
    # The epoch makes "revoke all of a user's sessions" one write, whatever their number.
    if session.revoked_at is not None or session.epoch != read.user_epoch:
        return DenialReason.REVOKED
    absolute_remaining = session.expires_at - now
    if absolute_remaining <= timedelta(0):
        return DenialReason.EXPIRED
    idle_remaining = min(session.last_seen_at + limits.idle - now, absolute_remaining)
    if idle_remaining <= timedelta(0):
        return DenialReason.IDLE
    return ActiveSession(
        session=session,
        user=user,
        absolute_remaining=absolute_remaining,
        idle_remaining=idle_remaining,
        authentication_age=max(now - session.authenticated_at, timedelta(0)),
    )
