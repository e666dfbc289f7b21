"""May this HTTP request pass, and as whose? One use case for every proxy that asks: ext_authz and forward-auth.

1. The rule that covers method and path. No rule: nobody passes.
2. The session, as far as the rule needs one. The client IP comes from trusted proxies only.
3. Pass, with headers that say who it is; or 401 (who are you?), 403 (not you), 503 (cannot know).

Passing as nobody is for routes that say so, and never what follows from a failure: "cannot know" is 503 on them too,
since whoever logged in would be shown as nobody.
"""

import json
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

from bridge_sidecar.client_ip import ClientIp
from bridge_sidecar.http_requests import Headers, RequestReader, lines_of
from bridge_sidecar.identity_headers import IdentityTooLargeError, identity_headers
from bridge_sidecar.routes import Match, Routes, Rule, SessionNeed
from bridge_sidecar.validator import Counters, Question, Verdict
from trust_core.clock import NS_PER_SECOND
from trust_core.errors import TrustError
from trust_core.modes import DENIAL_TEXT, DenialReason
from trust_core.tracing import Tracer
from trustlayer.v1 import types_pb2, validator_pb2

SESSION_MISSING: Final = "SESSION_MISSING"
"""The reason beside those of `DenialReason` and of errors: no session id was sent."""
NOT_ACTIVE: Final = "NOT_ACTIVE"
"""A definite no of a Flowless that knows reasons which this sidecar does not."""
IDENTITY_TOO_LARGE: Final = "IDENTITY_TOO_LARGE"
"""The session is active, but what the app should be told of it does not fit into headers."""
IDENTITY_HEADER_SENT: Final = "IDENTITY_HEADER_SENT"
"""The client sent a header that only the proxy may say, and the proxy let it through."""
INTERNAL: Final = "INTERNAL"

_TEXTS: Final = {
    SESSION_MISSING: "no session id was sent",
    NOT_ACTIVE: "the session is not active",
    IDENTITY_TOO_LARGE: "what the app should be told of the user does not fit into headers",
    IDENTITY_HEADER_SENT: "the request holds a header that only the proxy may set",
    INTERNAL: "internal error",
} | {reason.name: text for reason, text in DENIAL_TEXT.items()}
_NAMES: Final = {int(reason): reason.name for reason in DenialReason}
_FORBIDDEN: Final = frozenset((DenialReason.ROLE_MISSING, DenialReason.ROUTE_NOT_COVERED))
_DEFAULT_RETRY_SECONDS: Final = 1.0

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRequest:
    """What a proxy asks about. `path` as it is passed on, with or without its query.

    `peer`: the address from which the request reached the proxy; `None` when the proxy says that in the header.
    """

    method: str
    path: str
    headers: Headers
    peer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the proxy shall do.

    With status 200 `headers` are for the app; with any other they are the answer's, and `body` is its JSON. `reason`
    says why the request is refused, or passes as nobody's although a session id was sent; else it is empty.
    `session_handle` and `user_id` are empty when nobody is known.
    """

    status: HTTPStatus
    rule: str = ""
    reason: str = ""
    session_handle: str = ""
    user_id: str = ""
    headers: Pairs = ()
    body: bytes = b""

    @property
    def passes(self) -> bool:
        """Whether the request may go on to the app."""
        return self.status is HTTPStatus.OK


@dataclass(slots=True)
class GateCounters:
    """Decisions since the start. Touched by the event loop only."""

    passed: int = 0
    passed_as_nobody: int = 0
    unauthenticated: int = 0
    forbidden: int = 0
    unavailable: int = 0


class Answerer(Protocol):
    """Who validates sessions."""

    counters: Counters

    async def validate(self, question: Question) -> Verdict:
        """Answer; raises `TrustError`."""
        ...


class Gate:
    """See the module. One question at a time per request; holds nothing between requests but counters."""

    def __init__(
        self,
        *,
        answerer: Answerer,
        routes: Routes,
        reader: RequestReader,
        client_ip: ClientIp,
        identity: tuple[str, ...],
        tracer: Tracer | None = None,
    ) -> None:
        """`identity`: names of headers for the app. `routes` holds the table in effect, which a reload replaces."""
        self._tracer = tracer
        self._answerer = answerer
        self._routes = routes
        self._reader = reader
        self._client_ip = client_ip
        self._identity = identity
        self.counters = GateCounters()

    async def decide(self, request: GateRequest) -> Decision:
        """Decide. Never raises for what the request holds or for what cannot be known."""
        decision = await self._decide(request)
        self._count(decision)
        if self._tracer is not None:
            self._tracer.note(
                {
                    "http.response.status_code": int(decision.status),
                    "trustlayer.rule": decision.rule,
                    "trustlayer.reason": decision.reason,
                }
            )
        return decision

    async def _decide(self, request: GateRequest) -> Decision:
        match = self._match(request)
        if match is None:
            self._answerer.counters.denied(DenialReason.ROUTE_NOT_COVERED)
            return refused(DenialReason.ROUTE_NOT_COVERED.name, HTTPStatus.FORBIDDEN)
        rule = match.rule
        needs = rule.session is not SessionNeed.NONE
        session_id = self._reader.session_id(request.headers) if needs else None
        if session_id is None:
            if rule.session is SessionNeed.REQUIRED:
                return refused(SESSION_MISSING, HTTPStatus.UNAUTHORIZED, rule=rule.name)
            return Decision(status=HTTPStatus.OK, rule=rule.name)
        try:
            verdict = await self._answerer.validate(self._question(session_id, rule, request))
        except TrustError as error:
            return unavailable(error, rule=rule.name)
        if verdict.denial:
            return _denied(verdict.denial, rule)
        return self._passed(validator_pb2.ValidateResponse.FromString(verdict.payload).session, rule)

    def _match(self, request: GateRequest) -> Match | None:
        # What is not ASCII has no one spelling in a request line; a client that means it escapes it.
        return self._routes.table.by_request(request.method, request.path) if request.path.isascii() else None

    def _question(self, session_id: str, rule: Rule, request: GateRequest) -> Question:
        client_ip = self._client_ip.find(peer=request.peer, lines=lines_of(request.headers, self._client_ip.header))
        return Question(
            session_id=session_id,
            mode=self._routes.table.mode_of(rule, None),
            context=self._reader.context(request.headers, client_ip=client_ip),
            rule=rule,
        )

    def _passed(self, session: types_pb2.Session, rule: Rule) -> Decision:
        try:
            headers = identity_headers(session, self._identity)
        except IdentityTooLargeError:
            return refused(IDENTITY_TOO_LARGE, HTTPStatus.FORBIDDEN, rule=rule.name)
        return Decision(
            status=HTTPStatus.OK,
            rule=rule.name,
            session_handle=session.handle,
            user_id=session.user.id,
            headers=headers,
        )

    def _count(self, decision: Decision) -> None:
        counters = self.counters
        if decision.passes:
            if decision.session_handle:
                counters.passed += 1
            else:
                counters.passed_as_nobody += 1
        elif decision.status is HTTPStatus.UNAUTHORIZED:
            counters.unauthenticated += 1
        elif decision.status is HTTPStatus.FORBIDDEN:
            counters.forbidden += 1
        else:
            counters.unavailable += 1


def _denied(reason: int, rule: Rule) -> Decision:
    name = _NAMES.get(reason, NOT_ACTIVE)
    if reason in _FORBIDDEN:
        return refused(name, HTTPStatus.FORBIDDEN, rule=rule.name)
    if rule.session is SessionNeed.OPTIONAL:
        return Decision(status=HTTPStatus.OK, rule=rule.name, reason=name)
    if reason == DenialReason.AUTHENTICATION_TOO_OLD:
        seconds = (rule.max_authentication_age_ns or 0) // NS_PER_SECOND
        challenge = f'Bearer error="insufficient_user_authentication", max_age="{seconds}"'  # RFC 9470
        return refused(name, HTTPStatus.UNAUTHORIZED, rule=rule.name, challenge=challenge)
    challenge = 'Bearer error="invalid_token"'  # RFC 6750
    return refused(name, HTTPStatus.UNAUTHORIZED, rule=rule.name, challenge=challenge)


def refused(reason: str, status: HTTPStatus, *, rule: str = "", challenge: str = "Bearer") -> Decision:
    """Refuse for a reason that clients may rely on. `challenge` goes with 401 only, which needs one (RFC 9110)."""
    headers = (("www-authenticate", challenge),) if status is HTTPStatus.UNAUTHORIZED else ()
    return _answer(status, reason, _TEXTS.get(reason, ""), rule, headers)


def unavailable(error: TrustError | None, *, rule: str = "") -> Decision:
    """Say that it cannot be known, and when to ask again. `None`: for a reason that is nobody's business."""
    seconds = _DEFAULT_RETRY_SECONDS if error is None or error.retry_after is None else error.retry_after
    reason, text = (INTERNAL, _TEXTS[INTERNAL]) if error is None else (error.reason.value, error.message)
    retry = (("retry-after", str(max(1, math.ceil(seconds)))),)
    return _answer(HTTPStatus.SERVICE_UNAVAILABLE, reason, text, rule, retry)


def _answer(status: HTTPStatus, reason: str, text: str, rule: str, headers: Pairs) -> Decision:
    return Decision(
        status=status,
        rule=rule,
        reason=reason,
        headers=(("content-type", "application/json"), ("cache-control", "no-store"), *headers),
        body=json.dumps({"reason": reason, "message": text}).encode() + b"\n",
    )
