"""Rules of routes, at the socket of a running sidecar."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from bridge_sidecar.routes import OnMismatch, Rule, SessionNeed
from tests.support.rpc import detail
from tests.support.sidecar import Running, new_id, running_sidecar
from trust_core.clock import NS_PER_SECOND
from trust_core.errors import Reason, TrustError
from trust_core.modes import ValidationMode
from trustlayer.v1 import types_pb2

RULES = (
    Rule(
        name="admin",
        patterns=("* /admin/**", "grpc shop.v1.Admin/*"),
        mode=ValidationMode.STRICT,
        roles_any=frozenset(("admin",)),
        max_authentication_age_ns=60 * NS_PER_SECOND,
    ),
    Rule(name="pay", patterns=("POST /pay",), on_mismatch=OnMismatch.REVOKE),
    Rule(name="health", patterns=("GET /healthz",), session=SessionNeed.NONE),
    Rule(name="rest", patterns=("* /**",)),
)
BY_IP = types_pb2.RequestContext(client_ip="203.0.113.7")
ELSEWHERE = types_pb2.RequestContext(client_ip="198.51.100.9")


def _reason(answer: Any) -> str:
    if answer.HasField("session"):
        return ""
    return types_pb2.DenialReason.Name(answer.denial.reason).removeprefix("DENIAL_REASON_")


async def _ask(app: Running, session_id: str, request: str, **fields: Any) -> str:
    method, _, path = request.partition(" ")
    return _reason(await app.validate(session_id, http_method=method, path=path, **fields))


async def test_the_rule_that_covers_the_request_decides_what_is_asked_of_the_session(run_dir: Path) -> None:
    async with running_sidecar(run_dir, routes=RULES) as app:
        user, admin, old = new_id(), new_id(), new_id()
        app.flowless.add_session(user)
        app.flowless.add_session(admin, roles=("admin",))
        app.flowless.add_session(old, roles=("admin",), authenticated_seconds_ago=61)
        for _ in range(2):  # a miss, and a hit
            assert await _ask(app, admin, "GET /admin/users") == ""
            assert await _ask(app, user, "GET /admin/users") == "ROLE_MISSING"
            assert await _ask(app, old, "GET /admin/users") == "AUTHENTICATION_TOO_OLD"
            assert await _ask(app, user, "POST /shop.v1.Admin/Drop") == "ROLE_MISSING"
            assert await _ask(app, user, "GET /orders?x=1", context=BY_IP) == ""
        # The rule asks for STRICT: who sends less than that, or asks for less, is denied.
        assert await _ask(app, admin, "GET /admin/users", context=BY_IP) == "CONTEXT_MISSING"
        weaker = {"context": BY_IP, "mode": types_pb2.VALIDATION_MODE_STANDARD}
        assert await _ask(app, admin, "GET /admin/users", **weaker) == "CONTEXT_MISSING"
        stricter = {"context": BY_IP, "mode": types_pb2.VALIDATION_MODE_ADVANCED}
        assert await _ask(app, user, "GET /orders", **stricter) == "CONTEXT_MISSING"
        assert _reason(await app.validate(user, route="admin")) == "ROLE_MISSING"
        assert _reason(await app.validate(user, route="rest")) == ""
        assert (await app.status()).rules == len(RULES)


async def test_what_no_rule_covers_is_denied_without_a_question_to_anybody(run_dir: Path) -> None:
    async with running_sidecar(run_dir, routes=RULES) as app:
        session_id = new_id()
        app.flowless.add_session(session_id, roles=("admin",))
        for path in ("/admin/../x", "//admin", "/a%2fb", "/a;b", "relative"):
            assert await _ask(app, session_id, f"GET {path}") == "ROUTE_NOT_COVERED"
        answer = await app.validate(session_id, route="no such rule")
        assert _reason(answer) == "ROUTE_NOT_COVERED"
        assert answer.freshness.tier == types_pb2.TIER_NONE
        assert app.flowless.validate_requests == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"route": "rest", "http_method": "GET", "path": "/"}, "path"),
        ({"path": "/"}, "path"),
        ({"http_method": "GET"}, "path"),
        ({"http_method": "G" * 33, "path": "/"}, "path"),
        ({"http_method": "GET", "path": "/" * 8_193}, "path"),
        ({"route": "ä" * 65}, "route"),
    ],
)
async def test_a_route_that_is_not_told_in_one_way_is_refused(
    run_dir: Path, fields: dict[str, str], field: str
) -> None:
    async with running_sidecar(run_dir, routes=RULES) as app:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await app.validate(new_id(), **fields)
        bad = detail(failed.value, error_details_pb2.BadRequest)
        assert bad is not None
        assert {violation.field for violation in bad.field_violations} == {field}


async def test_a_mismatch_on_a_route_that_says_so_ends_the_session_for_its_owner_too(run_dir: Path) -> None:
    async with running_sidecar(run_dir, routes=RULES) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        assert await _ask(app, session_id, "GET /orders", context=ELSEWHERE) == "IP_MISMATCH"
        assert await _ask(app, session_id, "POST /pay") == ""
        assert await _ask(app, session_id, "POST /pay", context=ELSEWHERE) == "IP_MISMATCH"
        (report,) = app.flowless.mismatches
        assert (report.session_id, report.context, report.ipv4_prefix, report.ipv6_prefix) == (
            session_id,
            ELSEWHERE,
            32,
            64,
        )
        assert await _ask(app, session_id, "POST /pay") == "REVOKED"
        assert await _ask(app, session_id, "GET /orders") == "REVOKED"
        status = await app.status()
        assert (status.mismatches_reported, status.mismatches_not_reported) == (1, 0)


async def test_a_mismatch_that_cannot_be_reported_is_denied_and_counted(run_dir: Path) -> None:
    async with running_sidecar(run_dir, routes=RULES) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        app.flowless.mismatch_error = TrustError(Reason.STORAGE_UNAVAILABLE, "away")
        assert await _ask(app, session_id, "POST /pay", context=ELSEWHERE) == "IP_MISMATCH"
        assert (await app.status()).mismatches_not_reported == 1
        assert await _ask(app, session_id, "POST /pay") == ""


async def test_an_operator_may_demand_that_each_question_names_its_route(run_dir: Path) -> None:
    async with running_sidecar(run_dir, routes=RULES, routes_required=True) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        assert _reason(await app.validate(session_id)) == "ROUTE_NOT_COVERED"
        assert await _ask(app, session_id, "GET /orders") == ""


async def test_rules_that_change_take_effect_between_two_requests(run_dir: Path) -> None:
    async with running_sidecar(run_dir, routes=RULES) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        assert await _ask(app, session_id, "GET /orders") == ""
        app.sidecar.routes.table = type(app.sidecar.routes.table)(RULES[:1])
        assert await _ask(app, session_id, "GET /orders") == "ROUTE_NOT_COVERED"
        app.sidecar.routes.problems = ("line 3: routes[0].mode: must be one of standard, advanced, strict",)
        status = await app.status()
        assert (status.rules, list(status.rule_problems)) == (1, list(app.sidecar.routes.problems))
