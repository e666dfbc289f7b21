"""May this request pass, and as whose? What every middleware here decides by; they only translate. Pure.

1. What the route needs: a session, unless the app said otherwise.
2. The sidecar's answer to that.
3. The roles that the route asks for.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import grpc

from trustlayer.errors import DenialReason, SessionDenied, TrustLayerError, ValidatorUnavailable
from trustlayer.http_requests import Carried
from trustlayer.v1 import types_pb2
from trustlayer.validation import Mode, Validation

SESSION_MISSING: Final = "SESSION_MISSING"
"""The reason beside those of `DenialReason`: no session id was sent."""
NOT_ACTIVE: Final = "NOT_ACTIVE"
"""Told for a reason that this version does not know."""
_FORBIDDEN: Final = frozenset((DenialReason.ROLE_MISSING, DenialReason.ROUTE_NOT_COVERED))
_DEFAULT_RETRY_SECONDS: Final = 1.0
_CODES: Final = {
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a route needs. Without more said: a session, checked in the mode that the sidecar is configured with."""

    mode: Mode = Mode.DEFAULT
    """At least this mode."""
    route: str = ""
    """The name of a rule of the sidecar's configuration, which holds too."""
    roles_any: tuple[str, ...] = ()
    """The user has at least one of these roles; empty: whatever they have."""
    optional: bool = False
    """Lets pass without a session too, as nobody, also where one was denied. What cannot be known is refused."""
    public: bool = False
    """Asks for nothing: no session id is read, and the handler is given no session."""

    def __post_init__(self) -> None:
        if self.public and (self.mode or self.route or self.roles_any or self.optional):
            raise ValueError("a public route asks for nothing else")

    def arguments(self, carried: Carried) -> dict[str, Any] | None:
        """Give what to validate; `None` where the request passes as nobody. Raises `Refused`."""
        if self.public:
            return None
        if carried.session_id is None:
            if self.optional:
                return None
            raise Refused(HTTPStatus.UNAUTHORIZED, SESSION_MISSING, "no session id was sent", challenge="Bearer")
        return {
            "session_id": carried.session_id,
            "mode": self.mode,
            "route": self.route,
            "client_ip": carried.client_ip,
            "device_fingerprint": carried.device_fingerprint,
            "user_agent": carried.user_agent,
        }

    def settle(self, answer: Validation | SessionDenied | ValidatorUnavailable) -> types_pb2.Session | None:
        """Give the session with which the request passes, or `None` for nobody. Raises `Refused`."""
        if isinstance(answer, ValidatorUnavailable):
            raise _unavailable(answer)
        if isinstance(answer, SessionDenied):
            if self.optional and answer.reason not in _FORBIDDEN:
                return None
            raise _denied(answer)
        if self.roles_any and not set(self.roles_any) & set(answer.session.user.roles):
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
    name = NOT_ACTIVE if denied.reason.name.startswith("UNRECOGNIZED_") else denied.reason.name
    if denied.reason in _FORBIDDEN:
        return Refused(HTTPStatus.FORBIDDEN, name, denied.message)
    is_old = denied.reason is DenialReason.AUTHENTICATION_TOO_OLD
    error = "insufficient_user_authentication" if is_old else "invalid_token"  # RFC 9470, RFC 6750
    return Refused(HTTPStatus.UNAUTHORIZED, name, denied.message, challenge=f'Bearer error="{error}"')


def _unavailable(unavailable: ValidatorUnavailable) -> Refused:
    seconds = unavailable.retry_after if unavailable.retry_after is not None else _DEFAULT_RETRY_SECONDS
    return Refused(
        HTTPStatus.SERVICE_UNAVAILABLE,
        unavailable.reason or unavailable.code.name,
        "whether the session is valid cannot be known now",
        retry_after=seconds,
    )


class Routes:
    """What the paths of an app need: exact ones, and `/prefix/*`, of which the longest counts; else the default.

    `/prefix/*` is `/prefix` and all below it, as in servlets: what is asked of a section is asked of its first page.
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
        """Find what a path needs, as the app's own routing sees it."""
        if path in self._exact:
            return self._exact[path]
        return next((need for prefix, need in self._prefixes if f"{path}/".startswith(prefix)), self._default)
