"""The gate: what each answer of the validator becomes for a proxy."""

import json
from http import HTTPStatus

import pytest

from bridge_sidecar.client_ip import X_FORWARDED_FOR, ClientIp, trusted_network
from bridge_sidecar.gate import Decision, Gate, GateRequest
from bridge_sidecar.http_requests import Headers, RequestReader, SessionSource
from bridge_sidecar.routes import Routes, RouteTable, Rule, SessionNeed
from bridge_sidecar.validator import Counters, Question, Tier, Verdict
from trust_core.errors import Reason, TrustError
from trust_core.modes import DENIAL_TEXT, DenialReason, RequestContext, ValidationMode
from trustlayer.v1 import types_pb2, validator_pb2

RULES = (
    Rule(name="public", patterns=("GET /public",), session=SessionNeed.NONE),
    Rule(name="home", patterns=("GET /home",), session=SessionNeed.OPTIONAL),
    Rule(name="pay", patterns=("POST /pay",), mode=ValidationMode.STRICT, max_authentication_age_ns=90 * 10**9),
    Rule(name="app", patterns=("GET /app/**",)),
)
SESSION = types_pb2.Session(handle="sh_1", user=types_pb2.User(id="usr_1", roles=["a", "b"]))
ACTIVE = Verdict(validator_pb2.ValidateResponse(session=SESSION).SerializeToString(), 0, Tier.LRU, 1, 0)
COOKIE = ("cookie", "sid=one")


class _Answerer:
    """Answers as it is told, and keeps the questions."""

    def __init__(self) -> None:
        self.answer: Verdict | TrustError = ACTIVE
        self.questions: list[Question] = []
        self.counters = Counters()

    async def validate(self, question: Question) -> Verdict:
        self.questions.append(question)
        if isinstance(self.answer, TrustError):
            raise self.answer
        return self.answer


class _Asked:
    """A gate and what is behind it."""

    def __init__(self) -> None:
        self.answerer = _Answerer()
        self.routes = Routes(RouteTable(RULES, default_mode=ValidationMode.ADVANCED))
        self.gate = Gate(
            answerer=self.answerer,
            routes=self.routes,
            reader=RequestReader(sources=(SessionSource("cookie:sid"),), device_header="x-device"),
            client_ip=ClientIp(header=X_FORWARDED_FOR, trusted=(trusted_network("10.0.0.0/8"),)),
            identity=("x-user-id", "x-user-roles"),
        )

    async def ask(
        self, method: str, path: str, headers: Headers = (), *, peer: str | None = "203.0.113.7"
    ) -> Decision:
        return await self.gate.decide(GateRequest(method=method, path=path, headers=headers, peer=peer))

    def deny(self, reason: DenialReason) -> None:
        self.answerer.answer = Verdict(b"", reason, Tier.LRU, 1, 0)


@pytest.fixture
def asked() -> _Asked:
    return _Asked()


async def test_an_active_session_passes_with_headers_that_say_who_it_is(asked: _Asked) -> None:
    decision = await asked.ask("GET", "/app/x?y=z", [COOKIE])
    assert decision == Decision(
        status=HTTPStatus.OK,
        rule="app",
        session_handle="sh_1",
        user_id="usr_1",
        headers=(("x-user-id", "usr_1"), ("x-user-roles", "a,b")),
    )


async def test_the_question_holds_the_rule_its_mode_and_the_context(asked: _Asked) -> None:
    headers = [COOKIE, ("x-forwarded-for", "198.51.100.9"), ("x-device", "device"), ("user-agent", "agent")]
    await asked.ask("GET", "/app/x", headers, peer="203.0.113.7")
    await asked.ask("POST", "/pay", headers, peer="10.0.0.1")
    await asked.ask("GET", "/app/x", headers, peer=None)
    first, second, third = asked.answerer.questions
    assert (first.session_id, first.rule.name, first.mode) == ("one", "app", ValidationMode.ADVANCED)
    assert first.context == RequestContext("203.0.113.7", "device", "agent")
    assert (second.rule.name, second.mode) == ("pay", ValidationMode.STRICT)
    assert second.context.client_ip == third.context.client_ip == "198.51.100.9"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nowhere"),
        ("PUT", "/app/x"),
        ("get", "/app/x"),
        ("", ""),
        ("GET", "/app/\xe4"),
        ("GET", "/app/../home"),
    ],
)
async def test_what_no_rule_covers_is_refused_without_a_look_at_the_session(
    asked: _Asked, method: str, path: str
) -> None:
    decision = await asked.ask(method, path, [COOKIE])
    assert (decision.status, decision.reason) == (HTTPStatus.FORBIDDEN, "ROUTE_NOT_COVERED")
    assert asked.answerer.questions == []


async def test_a_reloaded_table_holds_from_the_next_request_on(asked: _Asked) -> None:
    asked.routes.table = RouteTable(())
    assert (await asked.ask("GET", "/public")).status is HTTPStatus.FORBIDDEN


async def test_a_route_without_a_session_passes_and_asks_nobody(asked: _Asked) -> None:
    assert await asked.ask("GET", "/public", [COOKIE]) == Decision(status=HTTPStatus.OK, rule="public")
    assert asked.answerer.questions == []


async def test_no_session_id_is_401_where_one_is_needed_and_nobody_where_it_is_not(asked: _Asked) -> None:
    decision = await asked.ask("GET", "/app/x")
    assert (decision.status, decision.reason) == (HTTPStatus.UNAUTHORIZED, "SESSION_MISSING")
    assert dict(decision.headers)["www-authenticate"] == "Bearer"
    assert await asked.ask("GET", "/home") == Decision(status=HTTPStatus.OK, rule="home")
    assert asked.answerer.questions == []


@pytest.mark.parametrize("reason", list(DenialReason))
async def test_every_denial_is_401_or_403_with_its_reason_and_is_not_kept_by_caches(
    asked: _Asked, reason: DenialReason
) -> None:
    asked.deny(reason)
    decision = await asked.ask("POST", "/pay", [COOKIE])
    forbidden = reason in {DenialReason.ROLE_MISSING, DenialReason.ROUTE_NOT_COVERED}
    assert decision.status is (HTTPStatus.FORBIDDEN if forbidden else HTTPStatus.UNAUTHORIZED)
    assert json.loads(decision.body) == {"reason": reason.name, "message": DENIAL_TEXT[reason]}
    headers = dict(decision.headers)
    assert (headers["content-type"], headers["cache-control"]) == ("application/json", "no-store")
    assert ("www-authenticate" in headers) != forbidden
    assert not any(name.startswith("x-") for name in headers)
    assert (decision.session_handle, decision.user_id) == ("", "")


async def test_a_denial_whose_reason_is_not_known_here_is_a_denial_all_the_same(asked: _Asked) -> None:
    asked.answerer.answer = Verdict(b"", 99, Tier.DATABASE, 1, 0)
    decision = await asked.ask("GET", "/app/x", [COOKIE])
    assert (decision.status, decision.reason) == (HTTPStatus.UNAUTHORIZED, "NOT_ACTIVE")


async def test_an_old_proof_is_challenged_with_the_age_that_the_rule_allows(asked: _Asked) -> None:
    asked.deny(DenialReason.AUTHENTICATION_TOO_OLD)
    decision = await asked.ask("POST", "/pay", [COOKIE])
    challenge = 'Bearer error="insufficient_user_authentication", max_age="90"'
    assert dict(decision.headers)["www-authenticate"] == challenge


@pytest.mark.parametrize("reason", [r for r in DenialReason if r not in {DenialReason.ROLE_MISSING, 14}])
async def test_a_session_that_is_denied_passes_as_nobody_where_none_is_needed(
    asked: _Asked, reason: DenialReason
) -> None:
    asked.deny(reason)
    decision = await asked.ask("GET", "/home", [COOKIE])
    assert decision == Decision(status=HTTPStatus.OK, rule="home", reason=reason.name)


@pytest.mark.parametrize(("method", "path"), [("GET", "/home"), ("GET", "/app/x")])
async def test_what_cannot_be_known_is_503_even_where_no_session_is_needed(
    asked: _Asked, method: str, path: str
) -> None:
    asked.answerer.answer = TrustError(Reason.UPSTREAM_UNAVAILABLE, "not now", retry_after=2.2)
    decision = await asked.ask(method, path, [COOKIE])
    assert (decision.status, decision.reason) == (HTTPStatus.SERVICE_UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
    assert dict(decision.headers)["retry-after"] == "3"
    assert json.loads(decision.body)["message"] == "not now"


async def test_a_retry_is_asked_for_after_a_second_at_least(asked: _Asked) -> None:
    asked.answerer.answer = TrustError(Reason.TOO_MANY_MISSES, "wait")
    assert dict((await asked.ask("GET", "/app/x", [COOKIE])).headers)["retry-after"] == "1"
    asked.answerer.answer = TrustError(Reason.UPSTREAM_REFUSED_BRIDGE, "no")
    assert dict((await asked.ask("GET", "/app/x", [COOKIE])).headers)["retry-after"] == "1"


async def test_an_identity_that_does_not_fit_is_refused_and_not_cut_short(asked: _Asked) -> None:
    session = types_pb2.Session(handle="sh_1", user=types_pb2.User(id="usr_1", roles=["\u00e9" * 64] * 64))
    payload = validator_pb2.ValidateResponse(session=session).SerializeToString()
    asked.answerer.answer = Verdict(payload, 0, Tier.LRU, 1, 0)
    decision = await asked.ask("GET", "/app/x", [COOKIE])
    assert (decision.status, decision.reason) == (HTTPStatus.FORBIDDEN, "IDENTITY_TOO_LARGE")


async def test_decisions_are_counted(asked: _Asked) -> None:
    await asked.ask("GET", "/app/x", [COOKIE])
    await asked.ask("GET", "/public")
    await asked.ask("GET", "/app/x")
    await asked.ask("GET", "/nowhere")
    asked.answerer.answer = TrustError(Reason.UPSTREAM_UNAVAILABLE, "")
    await asked.ask("GET", "/app/x", [COOKIE])
    counters = asked.gate.counters
    assert (counters.passed, counters.passed_as_nobody) == (1, 1)
    assert (counters.unauthenticated, counters.forbidden, counters.unavailable) == (1, 1, 1)
