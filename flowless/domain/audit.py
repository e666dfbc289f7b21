"""The audit log: what a security event is, and the chain of hashes that shows what was altered, removed or reordered.

An event never holds a secret, a session id, a token, an e-mail address or a login name. Whom it concerns is told by
user id or session handle, so that deleting a user leaves the log whole.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

NO_HASH: Final = bytes(32)
"""The hash before the first event."""

OPERATOR: Final = "operator"
SYSTEM: Final = "system"

Detail = str | int | bool | list[str]


class Action(StrEnum):
    """What happened. The set is closed: no action is made of a caller's words."""

    USER_REGISTER = "user.register"
    USER_UPDATE = "user.update"
    USER_DISABLE = "user.disable"
    USER_ENABLE = "user.enable"
    USER_DELETE = "user.delete"
    USER_IMPORT = "user.import"
    PASSWORD_CHANGE = "password.change"
    PASSWORD_RESET = "password.reset"
    EMAIL_VERIFY = "email.verify"
    EMAIL_CHANGE = "email.change"
    EMAIL_CHANGE_START = "email.change_start"
    INVITATION_ACCEPT = "invitation.accept"
    SESSION_LOGIN = "session.login"
    SESSION_REAUTHENTICATE = "session.reauthenticate"
    SESSION_ROTATE = "session.rotate"
    SESSION_LOGOUT = "session.logout"
    SESSION_REVOKE = "session.revoke"
    SESSION_REVOKE_ALL = "session.revoke_all"
    SESSION_EVICT = "session.evict"
    SESSION_MISMATCH = "session.mismatch"
    ATTEMPTS_LIMITED = "attempts.limited"
    TOKEN_ISSUE = "trust_token.issue"
    TOKEN_CONSUME = "trust_token.consume"
    TOKEN_REVOKE = "trust_token.revoke"
    KEY_ROTATE = "signing_key.rotate"
    KEY_DESTROY = "signing_key.destroy"
    KEY_REWRAP = "signing_key.rewrap"
    BRIDGE_CREATE = "bridge.create"
    BRIDGE_ROTATE = "bridge.rotate"
    BRIDGE_BIND = "bridge.bind"
    BRIDGE_REVOKE = "bridge.revoke"
    CALL_REFUSED = "call.refused"
    AUDIT_PRUNE = "audit.prune"
    DATABASE_RESTORED = "database.restored"


class Outcome(StrEnum):
    """How it ended."""

    SUCCESS = "success"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One security event. `subject` is a user id, a session handle, a bridge id, a key id, a jti, or empty.

    `action` is an `Action` and `outcome` an `Outcome` where we write; what is read may be anything.
    """

    time: datetime
    action: str
    actor: str
    outcome: str = Outcome.SUCCESS
    subject: str = ""
    user_id: str = ""
    client_ip: str = ""
    request_id: str = ""
    details: Mapping[str, Detail] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who asks for something: what every event that follows from it says of its origin."""

    name: str
    request_id: str = ""
    client_ip: str = ""

    @classmethod
    def of_bridge(cls, bridge_id: str, *, request_id: str, client_ip: str = "") -> "Actor":
        """Name a bridge that calls, and where the person is who makes it call."""
        return cls(name=f"bridge:{bridge_id}", request_id=request_id, client_ip=client_ip)

    def event(
        self,
        action: Action,
        *,
        now: datetime,
        outcome: Outcome = Outcome.SUCCESS,
        subject: str = "",
        user_id: str = "",
        **details: Detail,
    ) -> AuditEvent:
        """Make an event of this actor's."""
        return AuditEvent(
            time=now,
            action=action,
            outcome=outcome,
            actor=self.name,
            subject=subject,
            user_id=user_id,
            client_ip=self.client_ip,
            request_id=self.request_id,
            details=details,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """An event in its place in the log. Sequences are consecutive, beginning with 1."""

    sequence: int
    event: AuditEvent
    hash: bytes


def chained_hash(previous: bytes, sequence: int, time_us: int, event: AuditEvent) -> bytes:
    """SHA-256 over the hash before and everything that the event says, in a form that has one reading.

    Without a key: who can write the whole table can also write another chain. What shows that is a hash that was
    noted elsewhere; `flowless audit verify --expect` takes it.
    """
    text = json.dumps(
        [
            previous.hex(),
            sequence,
            time_us,
            event.action,
            event.outcome,
            event.actor,
            event.subject,
            event.user_id,
            event.client_ip,
            event.request_id,
            event.details,
        ],
        ensure_ascii=True,
        separators=(",", ":"),
        sort_keys=True,
    )
    return hashlib.sha256(text.encode("ascii")).digest()
