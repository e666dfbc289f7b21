"""May this request pass, and as whose? What every middleware here decides by; they only translate. Pure.

1. What the route needs: a session, unless the app said otherwise.
2. The sidecar's answer to that.
3. The roles that the route asks for.
"""

import json
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import grpc

from trustlayer.errors import CallFailed, DenialReason, SessionDenied, TrustLayerError, ValidatorUnavailable
from trustlayer.http_requests import NOT_A_SESSION_ID, Carried
from trustlayer.v1 import types_pb2
from trustlayer.validation import Mode, Validation

SESSION_MISSING: Final = "SESSION_MISSING"
"""The reason beside those of `DenialReason`: no session id was sent."""
NOT_ACTIVE: Final = "NOT_ACTIVE"
"""Told for a reason that this version does not know, or that was not said."""
_FORBIDDEN: Final = frozenset((DenialReason.ROLE_MISSING, DenialReason.ROUTE_NOT_COVERED))
_DEFAULT_RETRY_SECONDS: Final = 1.0
_CODES: Final = {
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.INTERNAL_SERVER_ERROR: grpc.StatusCode.INTERNAL,
}
_log: Final = logging.getLogger(__name__)

Outcome = Validation | SessionDenied | ValidatorUnavailable | CallFailed
"""What `validate` gives or raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a route needs. Without more said: a session, checked in the mode that the sidecar is configured with.

    Raises `ValueError` for what contradicts itself, and for roles that are no list of names or an empty one: nobody
    has one of none, and a list that turned out empty is not to open a route.
    """

    mode: Mode = Mode.DEFAULT
    """At least this mode."""
    route: str = ""
    """The name of a rule of the sidecar's configuration, which holds too."""
    roles_any: Collection[str] | None = None
    """The user has at least one of these roles."""
    roles_all: Collection[str] | None = None
    """The user has each of these roles."""
    optional: bool = False
    """Lets pass without a session too, as nobody, also where one was denied. What cannot be known is refused.

    Asks for nothing else, which whoever sends no session id would pass by.
    """
    public: bool = False
    """Asks for nothing: no session id is read, and the handler is given no session."""

    def __post_init__(self) -> None:
        for name in ("roles_any", "roles_all"):
            roles: Collection[str] | None = getattr(self, name)
            if roles is not None:
                if isinstance(roles, str) or not roles or not all(isinstance(role, str) and role for role in roles):
                    raise ValueError(f"{name} is a list of roles, and not an empty one")
                object.__setattr__(self, name, tuple(roles))
        asks = self.mode or self.route or self.roles_any or self.roles_all
        if self.public and (asks or self.optional):
            raise ValueError("a public route asks for nothing else")
        if self.optional and asks:
            raise ValueError("a route whose session is optional asks for nothing else")

    @property
    def is_lax(self) -> bool:
        """Whether requests pass without a session."""
        return self.public or self.optional

    def arguments(self, carried: Carried) -> dict[str, Any] | None:
        """Give what to validate; `None` where the request passes as nobody. Raises `Refused`."""
        if self.public:
            return None
        if carried.session_id is None:
            if self.optional:
                return None
            raise Refused(HTTPStatus.UNAUTHORIZED, SESSION_MISSING, "no session id was sent", challenge="Bearer")
        if carried.session_id == NOT_A_SESSION_ID:
            self.settle(SessionDenied(DenialReason.MALFORMED, "not a session id"))
            return None
        return {
            "session_id": carried.session_id,
            "mode": self.mode,
            "route": self.route,
            "client_ip": carried.client_ip,
            "device_fingerprint": carried.device_fingerprint,
            "user_agent": carried.user_agent,
        }

    def settle(self, answer: Outcome) -> types_pb2.Session | None:
        """Give the session with which the request passes, or `None` for nobody. Raises `Refused`."""
        if isinstance(answer, CallFailed):
            raise _wrong_question(answer)
        if isinstance(answer, ValidatorUnavailable):
            raise _unavailable(answer)
        if isinstance(answer, SessionDenied):
            if self.optional and answer.reason not in _FORBIDDEN:
                return None
            raise _denied(answer)
        has = answer.session.user.roles
        if (self.roles_any and set(self.roles_any).isdisjoint(has)) or not set(self.roles_all or ()).issubset(has):
            raise Refused(HTTPStatus.FORBIDDEN, DenialReason.ROLE_MISSING.name, "the user lacks the roles for this")
        return answer.session


PUBLIC: Final = Need(public=True)
"""Says that a route needs no session."""


class Refused(TrustLayerError):
    """The request does not pass. A middleware makes the answer of it."""

    def __init__(
        self, status: HTTPStatus, reason: str, message: str, *, challenge: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(status, reason, message)
        self.status = status
        self.reason = reason
        self.message = message
        self._challenge = challenge
        self._retry_after = retry_after

    @property
    def code(self) -> grpc.StatusCode:
        """What it is in gRPC."""
        return _CODES[self.status]

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Headers of the answer, names in lower case."""
        headers = [("content-type", "application/json"), ("cache-control", "no-store")]
        if self._challenge:
            headers.append(("www-authenticate", self._challenge))
        if self._retry_after is not None:
            headers.append(("retry-after", str(max(1, math.ceil(self._retry_after)))))
        return headers

    @property
    def body(self) -> bytes:
        """Body of the answer."""
        return json.dumps({"reason": self.reason, "message": self.message}).encode() + b"\n"


def _denied(denied: SessionDenied) -> Refused:
    is_known = denied.reason and not denied.reason.name.startswith("UNRECOGNIZED_")
    name = denied.reason.name if is_known else NOT_ACTIVE
    if denied.reason in _FORBIDDEN:
        return Refused(HTTPStatus.FORBIDDEN, name, denied.message)
    is_old = denied.reason is DenialReason.AUTHENTICATION_TOO_OLD
    error = "insufficient_user_authentication" if is_old else "invalid_token"  # RFC 9470, RFC 6750
    return Refused(HTTPStatus.UNAUTHORIZED, name, denied.message, challenge=f'Bearer error="{error}"')


def _unavailable(unavailable: ValidatorUnavailable) -> Refused:
    seconds = unavailable.retry_after if unavailable.retry_after is not None else _DEFAULT_RETRY_SECONDS
    return Refused(
        HTTPStatus.SERVICE_UNAVAILABLE,
        unavailable.reason or "UNAVAILABLE",
        "whether the session is valid cannot be known now",
        retry_after=seconds,
    )


def _wrong_question(failed: CallFailed) -> Refused:
    """Refuse what only the app can mend, and tell its log: who sent the request is not told more."""
    _log.error("a validation asks what cannot be asked: %s", failed)
    return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL", "this request cannot be validated")


class Routes:
    """What the paths of an app need: exact ones, and `/prefix/*`, of which the longest counts; else the default.

    `/prefix/*` is `/prefix` and all below it, as in servlets: what is asked of a section is asked of its first page.
    What is asked of `/path` is asked of `/path/` too, for to many frameworks they are one; what lets pass is exact.
    """

    def __init__(self, default: Need, routes: Mapping[str, Need]) -> None:
        """Raise `ValueError` for a path that does not begin with a slash, or a star elsewhere than at its end."""
        for path in routes:
            if not path.startswith("/") or "*" in path.removesuffix("/*"):
                raise ValueError(f"{path}: a route is /path or /prefix/*")
        self._default = default
        self._exact = {path: need for path, need in routes.items() if not path.endswith("/*")}
        prefixes = {path.removesuffix("*"): need for path, need in routes.items() if path.endswith("/*")}
        self._prefixes = sorted(prefixes.items(), key=lambda item: -len(item[0]))

    def need_of(self, path: str) -> Need:
        """Find what exactly this path needs, as methods of gRPC are looked up."""
        if path in self._exact:
            return self._exact[path]
        return next((need for prefix, need in self._prefixes if f"{path}/".startswith(prefix)), self._default)

    def needs_of(self, path: str) -> list[Need]:
        """Find what a path needs, as the app's own routing sees it: all of these."""
        need = self.need_of(path)
        if path in self._exact:
            return [need]
        bare = path.rstrip("/")
        twins = [self._exact[twin] for twin in (bare, f"{bare}/") if twin in self._exact]
        return [need, *(twin for twin in twins if not twin.is_lax)]
