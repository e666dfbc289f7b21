"""One vocabulary of errors for both programs; `grpc_edge` turns it into google.rpc details.

Services and domain code raise `TrustError`; nothing below the edge knows a gRPC code. Its text is ours and
may leave the process. The text of any other exception never does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final


class Code(Enum):
    """The gRPC codes that we use, by name, so that pure code need not import grpc."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    UNAVAILABLE = "UNAVAILABLE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"


class Reason(StrEnum):
    """Names as in `trustlayer.v1.ErrorReason` without the prefix; a test holds the two together."""

    INVALID_FIELD = "INVALID_FIELD"
    MALFORMED_MESSAGE = "MALFORMED_MESSAGE"
    BRIDGE_CREDENTIAL_MISSING = "BRIDGE_CREDENTIAL_MISSING"
    BRIDGE_CREDENTIAL_REFUSED = "BRIDGE_CREDENTIAL_REFUSED"
    SCOPE_MISSING = "SCOPE_MISSING"
    METHOD_NOT_RELAYED = "METHOD_NOT_RELAYED"
    LOGIN_REFUSED = "LOGIN_REFUSED"
    SESSION_NOT_ACTIVE = "SESSION_NOT_ACTIVE"
    USER_NOT_FOUND = "USER_NOT_FOUND"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    BRIDGE_NOT_FOUND = "BRIDGE_NOT_FOUND"
    EMAIL_TAKEN = "EMAIL_TAKEN"
    USER_NAME_TAKEN = "USER_NAME_TAKEN"
    BRIDGE_NAME_TAKEN = "BRIDGE_NAME_TAKEN"
    HASHING_OVERLOADED = "HASHING_OVERLOADED"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    STORAGE_FULL = "STORAGE_FULL"
    REVISION_NOT_REACHED = "REVISION_NOT_REACHED"
    UPSTREAM_UNAVAILABLE = "UPSTREAM_UNAVAILABLE"
    UPSTREAM_REFUSED_BRIDGE = "UPSTREAM_REFUSED_BRIDGE"
    TOO_MANY_MISSES = "TOO_MANY_MISSES"
    DRAINING = "DRAINING"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    INTERNAL = "INTERNAL"
    CONFLICT = "CONFLICT"
    TOO_MANY_CALLS = "TOO_MANY_CALLS"
    SERVICE_NOT_FOUND = "SERVICE_NOT_FOUND"
    TOO_MANY_ATTEMPTS = "TOO_MANY_ATTEMPTS"
    TRUST_TOKEN_REFUSED = "TRUST_TOKEN_REFUSED"
    SIGNING_NOT_CONFIGURED = "SIGNING_NOT_CONFIGURED"
    SIGNING_KEY_NOT_FOUND = "SIGNING_KEY_NOT_FOUND"
    SIGNING_KEY_IN_USE = "SIGNING_KEY_IN_USE"
    MAIL_NOT_CONFIGURED = "MAIL_NOT_CONFIGURED"
    SESSION_REFUSED = "SESSION_REFUSED"


CODES: Final[dict[Reason, Code]] = {
    Reason.INVALID_FIELD: Code.INVALID_ARGUMENT,
    Reason.MALFORMED_MESSAGE: Code.INVALID_ARGUMENT,
    Reason.BRIDGE_CREDENTIAL_MISSING: Code.UNAUTHENTICATED,
    Reason.BRIDGE_CREDENTIAL_REFUSED: Code.UNAUTHENTICATED,
    Reason.SCOPE_MISSING: Code.PERMISSION_DENIED,
    Reason.METHOD_NOT_RELAYED: Code.PERMISSION_DENIED,
    Reason.LOGIN_REFUSED: Code.UNAUTHENTICATED,
    Reason.SESSION_NOT_ACTIVE: Code.FAILED_PRECONDITION,
    Reason.USER_NOT_FOUND: Code.NOT_FOUND,
    Reason.SESSION_NOT_FOUND: Code.NOT_FOUND,
    Reason.BRIDGE_NOT_FOUND: Code.NOT_FOUND,
    Reason.EMAIL_TAKEN: Code.ALREADY_EXISTS,
    Reason.USER_NAME_TAKEN: Code.ALREADY_EXISTS,
    Reason.BRIDGE_NAME_TAKEN: Code.ALREADY_EXISTS,
    Reason.HASHING_OVERLOADED: Code.RESOURCE_EXHAUSTED,
    Reason.STORAGE_UNAVAILABLE: Code.UNAVAILABLE,
    Reason.STORAGE_FULL: Code.UNAVAILABLE,
    Reason.REVISION_NOT_REACHED: Code.UNAVAILABLE,
    Reason.UPSTREAM_UNAVAILABLE: Code.UNAVAILABLE,
    Reason.UPSTREAM_REFUSED_BRIDGE: Code.UNAVAILABLE,
    Reason.TOO_MANY_MISSES: Code.UNAVAILABLE,
    Reason.DRAINING: Code.UNAVAILABLE,
    Reason.DEADLINE_EXCEEDED: Code.DEADLINE_EXCEEDED,
    Reason.NOT_IMPLEMENTED: Code.UNIMPLEMENTED,
    Reason.INTERNAL: Code.INTERNAL,
    Reason.CONFLICT: Code.ABORTED,
    Reason.TOO_MANY_CALLS: Code.RESOURCE_EXHAUSTED,
    Reason.SERVICE_NOT_FOUND: Code.NOT_FOUND,
    Reason.TOO_MANY_ATTEMPTS: Code.RESOURCE_EXHAUSTED,
    Reason.TRUST_TOKEN_REFUSED: Code.UNAUTHENTICATED,
    Reason.SIGNING_NOT_CONFIGURED: Code.FAILED_PRECONDITION,
    Reason.SIGNING_KEY_NOT_FOUND: Code.NOT_FOUND,
    Reason.SIGNING_KEY_IN_USE: Code.FAILED_PRECONDITION,
    Reason.MAIL_NOT_CONFIGURED: Code.FAILED_PRECONDITION,
    Reason.SESSION_REFUSED: Code.UNAUTHENTICATED,
}

DEFAULT_RETRY_SECONDS: Final[dict[Reason, float]] = {
    Reason.HASHING_OVERLOADED: 1.0,
    Reason.STORAGE_UNAVAILABLE: 0.5,
    Reason.STORAGE_FULL: 30.0,
    Reason.REVISION_NOT_REACHED: 0.1,
    Reason.UPSTREAM_UNAVAILABLE: 0.5,
    Reason.TOO_MANY_MISSES: 0.1,
    Reason.DRAINING: 0.1,
    Reason.TOO_MANY_CALLS: 1.0,
    Reason.TOO_MANY_ATTEMPTS: 1.0,
}
"""Where a retry helps, how long to wait before it, in seconds; sent as google.rpc.RetryInfo."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that cannot be accepted, and what it takes."""

    field: str
    description: str


class TrustError(Exception):
    """An error whose reason and text may leave the process."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self._retry_after = retry_after
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)

    @property
    def code(self) -> Code:
        """The gRPC code that belongs to the reason."""
        return CODES[self.reason]

    @property
    def retry_after(self) -> float | None:
        """Seconds after which a retry may help; `None` when it does not."""
        return self._retry_after if self._retry_after is not None else DEFAULT_RETRY_SECONDS.get(self.reason)


def invalid(*violations: Violation) -> TrustError:
    """Build the error for fields that cannot be accepted."""
    text = "; ".join(f"{v.field}: {v.description}" for v in violations)
    return TrustError(Reason.INVALID_FIELD, text, violations=violations)
