"""The wire of Pubflow's HTTP bridge through a real Envoy, request by request, as its clients send them."""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import MethodOptions

from flowless.domain.bridges import Scope
from flowless.grpc.server import PUBFLOW_SERVICE
from tests.support.databases import new_postgres_database
from tests.support.flowless import PASSWORD, Client, Flowless, call_raw, fresh_email, outcome, running_flowless
from tests.support.flowless import bearer as metadata
from tests.support.http_client import Answer, exchange
from tests.support.links import NEW_PASSWORD
from tests.support.proxy import Proxy
from tests.support.rest import JSON, SHIPPED, SHIPPED_SECRET, Gateway, running_gateway
from tests.support.smtp import Mailbox, mail_server, text_of
from tools.processes import TESTING, FlowlessProcess, temporary_directory
from trustlayer.v1 import admin_pb2, trust_token_pb2

pytestmark = pytest.mark.long

AGENT = ("user-agent", "Mozilla/5.0 (test)")
DEVICE = "device-1"
ELSEWHERE = "127.0.0.9"
"""A client IP that is not the one of the login."""
LINKS = json.dumps(
    {name: f"https://app.example/{name}?token={{token}}" for name in ("password_reset", "email_verify")}
)
USER_FIELDS = {
    *("id", "email", "name", "last_name", "user_name", "user_type", "is_verified", "picture", "phone", "lang"),
    *("created_at", "updated_at", "roles"),
}


class Pubflow:
    """What a backend and its users have of the wire."""

    def __init__(self, gateway: Gateway, mailbox: Mailbox) -> None:
        self.gateway = gateway
        self.mailbox = mailbox
        self.client: Client = gateway.flowless.client
        self.secret = self.client.create_bridge(Scope.VALIDATE, Scope.PUBFLOW)[1]

    def backend(self, path: str, body: Any = None, headers: Any = (), *, secret: str | None = None) -> Answer:
        """A backend's request."""
        shown = self.secret if secret is None else secret
        return self.gateway.call("POST", path, body, [("x-bridge-secret", shown), *headers])

    def validate(self, body: Any = None, *, query: str = "", headers: Any = ()) -> Answer:
        """POST /auth/bridge/validate."""
        return self.backend(f"/auth/bridge/validate{query}", body, headers)

    def person(self, method: str, path: str, body: Any = None, headers: Any = (), *, source: str = "") -> Answer:
        """A person's request."""
        return self.gateway.call(method, path, body, [AGENT, *headers], source=source or "127.0.0.1")

    def log_in(self, email: str = "", **fields: Any) -> str:
        """Session id of a session that was made over the wire, bound to everything."""
        login = email or self.client.register().email
        body = {"email": login, "password": PASSWORD, "device_id": DEVICE, **fields}
        answer = self.person("POST", "/auth/login", body)
        assert answer.status == 200, answer
        return str(answer.json["session_id"])


@pytest.fixture(scope="module")
def pubflow() -> Iterator[Pubflow]:
    with (
        mail_server() as mailbox,
        temporary_directory() as directory,
        running_flowless(
            directory,
            pubflow="true",
            smtp_url=f"smtp://127.0.0.1:{mailbox.port}",
            mail_from="Example <no-reply@example.org>",
            link_urls=LINKS,
        ) as flowless,
        running_gateway(directory, flowless) as gateway,
    ):
        yield Pubflow(gateway, mailbox)


def _refused(answer: Answer) -> tuple[int, str]:
    """Status and text of an error of the wire, which has this form and no other."""
    assert answer.header("content-type") == "application/json"
    assert set(answer.json) == {"success", "error"}
    assert answer.json["success"] is False
    return answer.status, answer.json["error"]


def _moment(text: str) -> datetime:
    """A moment as RFC 3339 writes it."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", text)
    return datetime.fromisoformat(text)


# ---- POST /auth/bridge/validate ----


def test_a_good_session_answers_with_its_user_and_its_end(pubflow: Pubflow) -> None:
    user = pubflow.client.register(name="Ann", last_name="Lee", user_name="ann.lee", user_type="customer")
    session_id = pubflow.log_in(user.email)
    answer = pubflow.validate(query=f"?session_id={session_id}")
    assert answer.status == 200
    found = answer.json
    assert set(found) == {"success", "user", "session", "expires_at"}
    assert found["success"] is True
    assert set(found["user"]) == USER_FIELDS
    shown = {key: found["user"][key] for key in ("id", "email", "name", "last_name", "user_name", "user_type")}
    assert shown == {
        "id": user.id,
        "email": user.email,
        "name": "Ann",
        "last_name": "Lee",
        "user_name": "ann.lee",
        "user_type": "customer",
    }
    assert found["user"]["is_verified"] is False
    assert found["session"]["user_id"] == user.id
    assert found["session"]["id"].startswith("sh_")
    assert found["session"]["ip_address"] == "127.0.0.1"
    assert _moment(found["expires_at"]) > datetime.now(UTC)
    assert found["session"]["expires_at"] == found["expires_at"]
    assert session_id.encode() not in answer.body


@pytest.mark.parametrize("place", ["query", "body", "camel case body", "header", "cookie", "everywhere"])
def test_a_session_id_is_found_wherever_clients_put_it(pubflow: Pubflow, place: str) -> None:
    session_id = pubflow.log_in()
    query, cookie = f"?session_id={session_id}&cache=1", ("cookie", f"a=b; session_id={session_id}; c=d")
    answer = {
        "query": lambda: pubflow.validate(query=query),
        "body": lambda: pubflow.validate({"session_id": session_id}),
        "camel case body": lambda: pubflow.validate({"sessionId": session_id}),
        "header": lambda: pubflow.validate({}, headers=[("X-Session-ID", session_id)]),
        "cookie": lambda: pubflow.validate({}, headers=[cookie]),
        "everywhere": lambda: pubflow.validate(
            {"session_id": session_id}, query=query, headers=[("x-session-id", session_id), cookie]
        ),
    }[place]()
    assert (answer.status, answer.json["success"]) == (200, True)


def test_two_session_ids_that_differ_are_refused_and_a_cookie_gives_way(pubflow: Pubflow) -> None:
    one, other = pubflow.log_in(), pubflow.log_in()
    both = pubflow.validate({"session_id": other}, query=f"?session_id={one}")
    assert _refused(both)[0] == 400
    twice = pubflow.validate({}, headers=[("x-session-id", one), ("x-session-id", other)])
    assert _refused(twice)[0] in (400, 401)
    beside = pubflow.validate({"session_id": one}, headers=[("cookie", f"session_id={other}")])
    assert beside.json["user"]["id"] == pubflow.validate({"session_id": one}).json["user"]["id"]


def test_fields_that_nobody_knows_are_ignored(pubflow: Pubflow) -> None:
    body = {
        "session_id": pubflow.log_in(),
        "timestamp": 1_700_000_000_000,
        "source": "bridge-payments",
        "nested": {"deep": [1, {"x": None}]},
        "success": False,
    }
    assert pubflow.validate(body, query="?unknown=1&verbose=true").status == 200


GOOD = {"ip_address": "127.0.0.1", "device_id": DEVICE, "user_agent": AGENT[1]}
DENIED = {
    "another address": ({"ip_address": "198.51.100.9"}, "the client IP is not the one bound at login"),
    "another address by its other name": ({"ip": "198.51.100.9"}, "the client IP is not the one bound at login"),
    "another device": ({"device_id": "another"}, "the device fingerprint is not the one bound at login"),
    "another user agent": ({"user_agent": "curl/8"}, "the user agent is not the one bound at login"),
    "no address for standard": (
        {"validation_mode": "standard"},
        "the mode needs a part of the request context that was not sent",
    ),
    "no device for advanced": (
        {"validation_mode": "ADVANCED", "ip_address": "127.0.0.1"},
        "the mode needs a part of the request context that was not sent",
    ),
    "no user agent for strict": (
        {"validation_mode": "strict", "ip_address": "127.0.0.1", "device_id": DEVICE},
        "the mode needs a part of the request context that was not sent",
    ),
}


@pytest.mark.parametrize("case", DENIED)
def test_a_context_that_differs_or_lacks_what_was_asked_for_is_401(pubflow: Pubflow, case: str) -> None:
    body, text = DENIED[case]
    assert _refused(pubflow.validate({"session_id": pubflow.log_in(), **body})) == (401, text)


@pytest.mark.parametrize("mode", ["", "standard", "advanced", "strict", "STRICT"])
def test_the_context_of_the_login_satisfies_every_mode(pubflow: Pubflow, mode: str) -> None:
    assert pubflow.validate({"session_id": pubflow.log_in(), "validation_mode": mode, **GOOD}).status == 200


def test_what_was_not_bound_at_login_satisfies_no_mode_that_needs_it(pubflow: Pubflow) -> None:
    session_id = pubflow.log_in(device_id="")
    assert pubflow.validate({"session_id": session_id, **GOOD}).status == 200
    asked = pubflow.validate({"session_id": session_id, "validation_mode": "advanced", **GOOD})
    assert _refused(asked) == (401, "the mode needs a part of the context that was not bound at login")


def test_a_mode_that_there_is_not_is_refused_and_not_taken_for_none(pubflow: Pubflow) -> None:
    answer = pubflow.validate({"session_id": pubflow.log_in(), "validation_mode": "paranoid", **GOOD})
    assert _refused(answer)[0] == 400


def test_the_address_of_the_backend_itself_is_not_taken_for_the_browsers(pubflow: Pubflow) -> None:
    session_id = pubflow.log_in()
    headers = [("x-bridge-secret", pubflow.secret), ("x-client-ip", "127.0.0.1"), ("x-forwarded-for", "127.0.0.1")]
    body = {"session_id": session_id, "validation_mode": "standard"}
    assert pubflow.gateway.call("POST", "/auth/bridge/validate", body, headers).status == 401


def test_sessions_that_are_not_good_are_401(pubflow: Pubflow) -> None:
    session_id = pubflow.log_in()
    pubflow.client.revoke(pubflow.validate({"session_id": session_id}).json["session"]["id"])
    never = "sess_" + "0" * 49
    assert [_refused(pubflow.validate({"session_id": text})) for text in (session_id, never, "ses_xyz789", "")] == [
        (401, "the session was revoked"),
        (401, "not a session id"),
        (401, "not a session id"),
        (401, "the request names no session"),
    ]


def test_without_a_bridge_secret_that_may_validate_nobody_is_told_anything(pubflow: Pubflow) -> None:
    session_id = pubflow.log_in()
    people = pubflow.client.create_bridge(Scope.PUBFLOW)[1]
    body = {"session_id": session_id}
    missing = pubflow.gateway.call("POST", "/auth/bridge/validate", body)
    other_header = [("authorization", f"Bearer {pubflow.secret}")]
    elsewhere = pubflow.gateway.call("POST", "/auth/bridge/validate", body, other_header)
    wrong = pubflow.backend("/auth/bridge/validate", body, secret="x")
    narrow = pubflow.backend("/auth/bridge/validate", body, secret=people)
    assert [_refused(answer)[0] for answer in (missing, elsewhere, wrong, narrow)] == [401, 401, 401, 403]


def test_use_over_the_wire_keeps_a_session_from_expiring_idle(pubflow: Pubflow) -> None:
    session_id = pubflow.log_in()
    handle = pubflow.validate({"session_id": session_id}).json["session"]["id"]
    with pubflow.gateway.flowless.sql() as database:
        database.execute("UPDATE sessions SET last_seen_us = last_seen_us - 3000000000 WHERE handle = ?", (handle,))
    seen = [_moment(pubflow.validate({"session_id": session_id}).json["session"]["last_used_at"]) for _ in range(2)]
    assert seen[1] > seen[0]


# ---- people ----


def test_health_answers_while_flowless_can_read_its_database(pubflow: Pubflow) -> None:
    answer = pubflow.person("GET", "/health")
    assert (answer.status, answer.json) == (200, {"success": True, "status": "ok"})


@pytest.mark.parametrize("name", ["email", "user_name"])
def test_a_person_logs_in_with_an_address_or_a_user_name(pubflow: Pubflow, name: str) -> None:
    user = pubflow.client.register(user_name=f"by.{name}")
    answer = pubflow.person("POST", "/auth/login", {name: getattr(user, name), "password": PASSWORD})
    assert answer.status == 200
    assert set(answer.json) == {"success", "user", "session_id", "expires_at"}
    assert answer.json["success"] is True
    assert answer.json["user"]["id"] == user.id
    assert pubflow.validate({"session_id": answer.json["session_id"]}).status == 200


def test_a_wrong_password_and_an_unknown_user_are_401_and_the_same(pubflow: Pubflow) -> None:
    user = pubflow.client.register()
    for login in (user.email, "nobody@example.org"):
        answer = pubflow.person("POST", "/auth/login", {"email": login, "password": "not this one at all"})
        assert _refused(answer) == (401, "wrong user or password")


def test_a_login_is_bound_to_the_address_that_envoy_sees_whatever_the_client_says(pubflow: Pubflow) -> None:
    email = pubflow.client.register().email
    headers = [("x-forwarded-for", "203.0.113.7"), ("x-client-ip", "203.0.113.7"), ("forwarded", "for=203.0.113.7")]
    body = {"email": email, "password": PASSWORD, "ip_address": "203.0.113.7"}
    session_id = pubflow.person("POST", "/auth/login", body, headers, source=ELSEWHERE).json["session_id"]
    assert pubflow.validate({"session_id": session_id}).json["session"]["ip_address"] == ELSEWHERE


@pytest.mark.parametrize("path", ["/auth/me", "/auth/validation"])
def test_a_person_asks_who_they_are_with_header_cookie_or_query(pubflow: Pubflow, path: str) -> None:
    session_id = pubflow.log_in()
    answers = [
        pubflow.person("GET", path, None, [("X-Session-ID", session_id)]),
        pubflow.person("GET", path, None, [("cookie", f"session_id={session_id}")]),
        pubflow.person("GET", f"{path}?session_id={session_id}"),
    ]
    for answer in answers:
        assert answer.status == 200
        assert set(answer.json) - {"valid"} == {"success", "user", "session", "expires_at"}
        assert set(answer.json["user"]) == USER_FIELDS
    assert ("valid" in answers[0].json) == path.endswith("validation")
    elsewhere = pubflow.person("GET", path, None, [("X-Session-ID", session_id)], source=ELSEWHERE)
    assert _refused(elsewhere) == (401, "the client IP is not the one bound at login")
    assert _refused(pubflow.person("GET", path))[0] == 401


@pytest.mark.parametrize("place", ["header", "cookie", "query", "body"])
def test_a_logout_ends_the_session_and_may_be_repeated(pubflow: Pubflow, place: str) -> None:
    session_id = pubflow.log_in()
    for _ in range(2):
        answer = {
            "header": lambda: pubflow.person("POST", "/auth/logout", {}, [("X-Session-ID", session_id)]),
            "cookie": lambda: pubflow.person("POST", "/auth/logout", None, [("cookie", f"session_id={session_id}")]),
            "query": lambda: pubflow.person("POST", f"/auth/logout?session_id={session_id}"),
            "body": lambda: pubflow.person("POST", "/auth/logout", {"session_id": session_id}),
        }[place]()
        assert (answer.status, answer.json["success"]) == (200, True)
    assert _refused(pubflow.validate({"session_id": session_id}))[0] == 401
    assert _refused(pubflow.person("POST", "/auth/logout", {}))[0] == 401
    assert _refused(pubflow.person("POST", "/auth/logout", {"session_id": "ses_old"}))[0] == 401


def _token(mailbox: Mailbox, recipient: str, purpose: str) -> str:
    """The token of the only mail of this purpose to somebody."""
    with mailbox.changed:
        assert mailbox.changed.wait_for(lambda: any(_links(mailbox, recipient, purpose)), 20)
    (found,) = _links(mailbox, recipient, purpose)
    return found


def _links(mailbox: Mailbox, recipient: str, purpose: str) -> list[str]:
    mails = [text_of(mail) for mail in mailbox.taken if mail["To"] == recipient]
    return [link for text in mails for link in re.findall(rf"https://app\.example/{purpose}\?token=(\S+)", text)]


def test_a_backend_registers_a_person_who_gets_a_mail_and_no_rights(pubflow: Pubflow) -> None:
    email = fresh_email()
    body = {
        "email": email, "password": PASSWORD, "name": "Ann", "last_name": "Lee", "phone": "+49 30 1",
        "user_type": "admin", "roles": ["admin"], "ip_address": "203.0.113.7",
    }  # fmt: skip
    answer = pubflow.backend("/auth/register/public", body)
    assert answer.status == 200
    user = answer.json["user"]
    assert (user["email"], user["name"], user["user_type"], user["roles"]) == (email, "Ann", "", [])
    assert "session_id" not in answer.json
    assert _token(pubflow.mailbox, email, "email_verify")
    assert _refused(pubflow.backend("/auth/register/public", body))[0] == 409
    assert _refused(pubflow.backend("/auth/register/public", {"email": fresh_email()}))[0] == 400
    assert _refused(pubflow.person("POST", "/auth/register/public", body))[0] == 401


def test_a_forgotten_password_is_reset_by_mail(pubflow: Pubflow) -> None:
    email = pubflow.client.register().email
    session_id = pubflow.log_in(email)
    asked = pubflow.person("POST", "/auth/password-reset/request", {"email": email, "reset_url": "https://evil"})
    nobody = pubflow.person("POST", "/auth/password-reset/request", {"email": "nobody@example.org"})
    assert (asked.status, asked.json) == (nobody.status, nobody.json)
    assert set(asked.json) == {"success", "message"}
    token = _token(pubflow.mailbox, email, "password_reset")
    checked = pubflow.person("POST", "/auth/password-reset/validate", {"token": token})
    assert (checked.status, checked.json) == (200, {"success": True, "valid": True})
    wrong = pubflow.person("POST", "/auth/password-reset/validate", {"token": token[:-1]})
    assert _refused(wrong)[0] == 401
    weak = pubflow.person("POST", "/auth/password-reset/complete", {"token": token, "password": "short"})
    assert _refused(weak)[0] == 400
    done = pubflow.person("POST", "/auth/password-reset/complete", {"token": token, "password": NEW_PASSWORD})
    assert (done.status, done.json["success"]) == (200, True)
    again = pubflow.person("POST", "/auth/password-reset/complete", {"token": token, "new_password": NEW_PASSWORD})
    assert _refused(again)[0] == 401
    assert _refused(pubflow.validate({"session_id": session_id}))[0] == 401
    assert pubflow.person("POST", "/auth/login", {"email": email, "password": NEW_PASSWORD}).status == 200


def test_a_person_changes_their_own_password_and_the_session_gets_a_new_id(pubflow: Pubflow) -> None:
    email = pubflow.client.register().email
    session_id, other = pubflow.log_in(email), pubflow.log_in(email)
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    header = [("X-Session-ID", session_id)]
    wrong = pubflow.person("POST", "/auth/password-change/self", {**body, "current_password": "wrong"}, header)
    assert _refused(wrong) == (401, "wrong user or password")
    elsewhere = pubflow.person("POST", "/auth/password-change/self", body, header, source=ELSEWHERE)
    assert _refused(elsewhere)[0] == 401
    changed = pubflow.person("POST", "/auth/password-change/self", body, header)
    assert (changed.status, changed.json["success"]) == (200, True)
    states = [
        pubflow.validate({"session_id": text}).status for text in (changed.json["session_id"], session_id, other)
    ]
    assert states == [200, 401, 401]


def test_a_mail_that_proves_the_address_is_sent_again(pubflow: Pubflow) -> None:
    email = pubflow.client.register().email
    answer = pubflow.person("POST", "/auth/resend-verification", {"email": email})
    nobody = pubflow.person("POST", "/auth/resend-verification", {"email": "nobody@example.org"})
    assert (answer.status, answer.json) == (200, nobody.json)
    token = _token(pubflow.mailbox, email, "email_verify")
    request = trust_token_pb2.ConsumeTrustTokenRequest(token=token, purpose="email_verify", audience="pubflow")
    pubflow.client.tokens.ConsumeTrustToken(request)
    assert pubflow.validate({"session_id": pubflow.log_in(email)}).json["user"]["is_verified"] is True


def test_a_user_id_is_no_address_to_send_mail_to(pubflow: Pubflow) -> None:
    user = pubflow.client.register()
    assert _refused(pubflow.person("POST", "/auth/password-reset/request", {"email": user.id}))[0] == 400


def test_a_magic_link_logs_in_once(pubflow: Pubflow) -> None:
    user = pubflow.client.register()
    request = trust_token_pb2.IssueTrustTokenRequest(purpose="magic_link", subject=user.email, audience="pubflow")
    request.lifetime.FromSeconds(600)
    token = pubflow.client.tokens.IssueTrustToken(request).token
    answer = pubflow.person("POST", "/auth/token/login", {"token": token, "device_id": DEVICE})
    assert answer.status == 200
    assert answer.json["user"]["id"] == user.id
    assert (
        pubflow.validate({"session_id": answer.json["session_id"], "validation_mode": "strict", **GOOD}).status == 200
    )
    assert _refused(pubflow.person("POST", "/auth/token/login", {"token": token}))[0] == 401


def test_every_request_that_changes_something_leaves_its_event(pubflow: Pubflow) -> None:
    user = pubflow.client.register()
    email, session_id = user.email, pubflow.log_in()
    header = [("x-session-id", session_id)]
    issue = trust_token_pb2.IssueTrustTokenRequest(purpose="magic_link", subject=email, audience="pubflow")
    issue.lifetime.FromSeconds(600)
    link = pubflow.client.tokens.IssueTrustToken(issue).token
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    new = {"email": fresh_email(), "password": PASSWORD, "ip_address": "203.0.113.7"}
    login = {"email": email, "password": PASSWORD}
    requests: dict[str, tuple[Callable[[], Answer], str, str]] = {
        "LogIn": (lambda: pubflow.person("POST", "/auth/login", login), "session.login", "127.0.0.1"),
        "LogInWithToken": (
            lambda: pubflow.person("POST", "/auth/token/login", {"token": link}), "session.login", "127.0.0.1"
        ),
        "ResendVerification": (
            lambda: pubflow.person("POST", "/auth/resend-verification", {"email": email}),
            "trust_token.issue", "127.0.0.1",
        ),
        "RequestPasswordReset": (
            lambda: pubflow.person("POST", "/auth/password-reset/request", {"email": another.email}),
            "trust_token.issue", "127.0.0.1",
        ),
        "ChangePassword": (
            lambda: pubflow.person("POST", "/auth/password-change/self", change, header),
            "password.change", "127.0.0.1",
        ),
        "LogOut": (
            lambda: pubflow.person("POST", "/auth/logout", {"session_id": pubflow.log_in(another.email)}),
            "session.logout", "127.0.0.1",
        ),
        "CompletePasswordReset": (
            lambda: pubflow.person(
                "POST", "/auth/password-reset/complete", {"token": _reset_token(pubflow), "password": PASSWORD}
            ),
            "password.reset", "127.0.0.1",
        ),
        # Leaves a second one, of the mail.
        "RegisterUser": (
            lambda: pubflow.backend("/auth/register/public", new), "trust_token.issue", "203.0.113.7"
        ),
    }  # fmt: skip
    another = pubflow.client.register()
    changing = {
        method.name
        for method in PUBFLOW_SERVICE.methods
        if method.GetOptions().idempotency_level != MethodOptions.NO_SIDE_EFFECTS
    }
    assert requests.keys() == changing
    for name, (call, action, client_ip) in requests.items():
        assert call().status == 200, name
        latest = pubflow.client.admin.ListAuditEvents(admin_pb2.ListAuditEventsRequest(page_size=2)).events
        assert (latest[0].action, latest[0].outcome, latest[0].client_ip) == (action, "success", client_ip), name
    assert latest[1].action == "user.register"


def _reset_token(pubflow: Pubflow) -> str:
    email = pubflow.client.register().email
    pubflow.person("POST", "/auth/password-reset/request", {"email": email})
    return _token(pubflow.mailbox, email, "password_reset")


# ---- what Envoy's own bridge may, outages, logs ----


def test_envoys_own_bridge_opens_nothing_but_what_people_may(pubflow: Pubflow) -> None:
    secret = pubflow.gateway.secret_file.read_text()
    session_id = pubflow.log_in()
    answers = [
        pubflow.gateway.rest("POST", "/v1/sessions:validate", {"sessionId": session_id}, secret=secret),
        pubflow.gateway.rest("GET", "/v1/users", secret=secret),
        pubflow.gateway.rest("POST", "/v1/trustTokens:issue", {}, secret=secret),
        pubflow.backend("/auth/bridge/validate", {"session_id": session_id}, secret=secret),
    ]
    assert [answer.status for answer in answers] == [403, 403, 403, 403]
    assert [answer.header("trustlayer-reason") for answer in answers] == ["SCOPE_MISSING"] * 4


def test_a_credential_that_a_person_sends_is_replaced_and_not_added_to(pubflow: Pubflow) -> None:
    session_id = pubflow.log_in()
    for credential in ("Bearer x", f"Bearer {pubflow.client.secret}", "Basic eDp5"):
        headers = [("authorization", credential), ("x-session-id", session_id)]
        assert pubflow.person("GET", "/auth/me", None, headers).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/auth/register/public/",
        "/auth/register/publi%63",
        "/auth/register/PUBLIC",
        "/auth/x/../register/public",
        "/auth//register/public",
        "/auth/login/../register/public",
        "/auth/register/public;x",
        "/auth/register/public%3f",
        "/auth/bridge/validate/",
    ],
)
@pytest.mark.parametrize("content", ["application/json", "application/grpc", "application/grpc-web+proto"])
def test_no_spelling_of_a_backends_path_gets_envoys_credential(pubflow: Pubflow, path: str, content: str) -> None:
    email = fresh_email()
    body = json.dumps({"email": email, "password": PASSWORD}).encode()
    answer = exchange(pubflow.gateway.port, "POST", path, [("content-type", content)], body)
    with pubflow.gateway.flowless.sql() as database:
        found = database.execute("SELECT count(*) FROM users WHERE email = ?", (email,)).fetchone()
    assert found == (0,)
    if content == "application/json":
        assert _refused(answer)[0] in (400, 401, 404)


def test_headers_that_steer_envoy_are_not_taken_from_anybody(pubflow: Pubflow) -> None:
    steering = [
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-original-path", "/x"),
        ("x-envoy-max-retries", "9"),
    ]
    body = {"email": pubflow.client.register().email, "password": PASSWORD}
    assert pubflow.person("POST", "/auth/login", body, steering).status == 200


def test_other_cookies_do_not_reach_flowless_whose_limit_on_headers_is_small(pubflow: Pubflow) -> None:
    cookie = ("cookie", f"tracking={'x' * 15_000}; session_id={pubflow.log_in()}")
    # Between its two limits gRPC refuses at random, the more often the larger.
    assert {pubflow.person("GET", "/auth/me", None, [cookie]).status for _ in range(8)} == {200}


@pytest.mark.parametrize(
    ("forwarded", "seen"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("198.51.100.66, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, 198.51.100.66, 2001:db8::7", "2001:db8::7"),
        ("", "127.0.0.1"),
    ],
)
def test_behind_one_trusted_proxy_the_address_is_the_one_that_it_saw(
    behind_a_proxy: Pubflow, forwarded: str, seen: str
) -> None:
    body = {"email": behind_a_proxy.client.register().email, "password": PASSWORD}
    headers = [("x-forwarded-for", forwarded)] if forwarded else []
    session_id = behind_a_proxy.person("POST", "/auth/login", body, headers).json["session_id"]
    assert behind_a_proxy.validate({"session_id": session_id}).json["session"]["ip_address"] == seen


@pytest.fixture(scope="module")
def behind_a_proxy(pubflow: Pubflow) -> Iterator[Pubflow]:
    replace = {"xff_num_trusted_hops: 0": "xff_num_trusted_hops: 1"}
    with (
        temporary_directory() as directory,
        running_gateway(directory, pubflow.gateway.flowless, replace=replace) as gateway,
    ):
        yield Pubflow(gateway, pubflow.mailbox)


def test_the_secret_of_envoys_own_bridge_is_replaced_without_a_restart(behind_a_proxy: Pubflow) -> None:
    """As the document says: another file is moved in the place of the one that names the secret."""
    gateway, source = behind_a_proxy.gateway, behind_a_proxy.gateway.secret_file.with_suffix(".yaml")
    assert gateway.call("GET", "/health").status == 200
    bridges = gateway.flowless.client.admin.ListBridges(admin_pb2.ListBridgesRequest()).bridges
    own = next(bridge for bridge in bridges if f"_{bridge.id}_" in gateway.secret_file.read_text())
    fresh = behind_a_proxy.client.create_bridge(Scope.PUBFLOW)[1]
    gateway.secret_file.write_text(fresh)
    moved = source.with_suffix(".new")
    moved.write_text(source.read_text())
    moved.replace(source)
    gateway.flowless.client.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=own.id))
    deadline = time.monotonic() + 20
    while (answer := gateway.call("GET", "/health")).status != 200:
        assert (answer.status, time.monotonic() < deadline) == (503, True)
        time.sleep(0.05)


@pytest.mark.parametrize("text", ["", None])
def test_without_a_secret_of_its_own_envoy_serves_bridges_and_nobody_else(
    pubflow: Pubflow, run_dir: Path, text: str | None
) -> None:
    secret_file = run_dir / "other.secret"
    if text is not None:
        secret_file.write_text(text)
    source = run_dir / "other.yaml"
    source.write_text((SHIPPED / "envoy-bridge.yaml").read_text().replace(SHIPPED_SECRET, str(secret_file)))
    replace = {"/etc/envoy/envoy-bridge.yaml": str(source)}
    with running_gateway(run_dir, pubflow.gateway.flowless, replace=replace) as gateway:
        served = Pubflow(gateway, pubflow.mailbox)
        assert served.validate({"session_id": pubflow.log_in()}).status == 200
        assert _refused(served.person("GET", "/health"))[0] in (401, 503)


def test_requests_of_the_wire_that_envoy_refuses_have_its_form(pubflow: Pubflow) -> None:
    broken = exchange(pubflow.gateway.port, "POST", "/auth/login", [JSON], b'{"email": ')
    large = pubflow.person("POST", "/auth/login", {"email": "x" * 70_000})
    unknown = pubflow.person("GET", "/auth/social/providers")
    wrong_verb = pubflow.person("GET", "/auth/login")
    assert [_refused(answer)[0] for answer in (broken, large, unknown, wrong_verb)] == [400, 413, 404, 404]


def test_text_that_is_told_cannot_break_out_of_the_json(pubflow: Pubflow) -> None:
    body = {"email": 'a"}\\ü@b', "password": 'x"\n', "user_name": "\\"}
    assert _refused(pubflow.person("POST", "/auth/login", body))[0] == 400


def test_without_the_setting_there_is_no_such_service(run_dir: Path) -> None:
    with running_flowless(run_dir) as flowless, grpc.insecure_channel(flowless.process.address) as channel:
        path = "/trustlayer.pubflow.v1.PubflowService/CheckHealth"
        found = outcome(call_raw(channel, path, metadata=metadata(flowless.client.secret)))
    assert found == ("UNIMPLEMENTED", "NOT_IMPLEMENTED")


@pytest.mark.parametrize(("mode", "missing"), [("standard", "ip_address"), ("advanced", "device_id")])
def test_a_deployment_asks_every_backend_for_a_mode(run_dir: Path, mode: str, missing: str) -> None:
    with (
        running_flowless(run_dir, pubflow="true", pubflow_mode=mode) as flowless,
        running_gateway(run_dir, flowless) as gateway,
        mail_server() as unused,
    ):
        pubflow = Pubflow(gateway, unused)
        session_id = pubflow.log_in()
        body: Mapping[str, str] = {"session_id": session_id, "validation_mode": "", **GOOD}
        weaker = {"session_id": session_id, "validation_mode": "standard", **GOOD}
        assert [pubflow.validate(sent).status for sent in (body, weaker)] == [200, 200]
        for sent in (body, weaker):
            lacking = {key: value for key, value in sent.items() if key != missing}
            assert _refused(pubflow.validate(lacking))[0] == 401
        own = pubflow.person("GET", "/auth/me", None, [("x-session-id", session_id), ("x-device-id", DEVICE)])
        assert own.status == 200
        without = pubflow.person("GET", "/auth/me", None, [("x-session-id", session_id)])
        assert without.status == (401 if mode == "advanced" else 200)


def test_when_envoys_own_bridge_is_revoked_people_are_told_503_and_never_401(run_dir: Path) -> None:
    with running_flowless(run_dir, pubflow="true") as flowless, running_gateway(run_dir, flowless) as gateway:
        bridges = flowless.client.admin.ListBridges(admin_pb2.ListBridgesRequest()).bridges
        (own,) = (bridge for bridge in bridges if bridge.name != "everything")
        flowless.client.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=own.id))
        answer = gateway.call("GET", "/auth/me", None, [("x-session-id", "sess_" + "0" * 49)])
        assert _refused(answer)[0] == 503
        assert answer.header("retry-after")


def test_an_unavailable_database_and_an_unavailable_flowless_are_503_and_never_401(run_dir: Path) -> None:
    with new_postgres_database() as url:
        host, _, rest = url.partition("@")[2].partition("/")
        with Proxy(host) as proxy:
            through = f"{url.partition('@')[0]}@127.0.0.1:{proxy.port}/{rest}"
            process = FlowlessProcess(
                directory=run_dir,
                database_url=through,
                environment={**TESTING, "FLOWLESS_PUBFLOW": "true", "FLOWLESS_BUSY_TIMEOUT_SECONDS": "0.5"},
            )
            with process, grpc.insecure_channel(process.address) as channel:
                secret = process.create_bridge("everything", [scope.name.lower() for scope in Scope]).secret
                flowless = Flowless(process=process, file=run_dir / "none", client=Client(channel, secret))
                with running_gateway(run_dir, flowless) as gateway, mail_server() as unused:
                    pubflow = Pubflow(gateway, unused)
                    session_id = pubflow.log_in()
                    proxy.cut()
                    away = _all_of(pubflow, session_id)
                    proxy.mend()
                    process.kill()
                    gone = _all_of(pubflow, session_id)
    assert away == gone == [503] * 4


def _all_of(pubflow: Pubflow, session_id: str) -> list[int]:
    header = [("x-session-id", session_id)]
    calls: tuple[Callable[[], Answer], ...] = (
        lambda: pubflow.validate({"session_id": session_id}),
        lambda: pubflow.person("GET", "/auth/validation", None, header),
        lambda: pubflow.person("GET", "/health"),
        lambda: pubflow.person("POST", "/auth/login", {"email": "a@example.org", "password": PASSWORD}),
    )
    with ThreadPoolExecutor(len(calls)) as pool:
        return [_refused(answer)[0] for answer in pool.map(lambda call: call(), calls)]


def test_neither_log_ever_holds_what_the_wire_puts_into_queries(pubflow: Pubflow) -> None:
    with temporary_directory() as directory, running_gateway(directory, pubflow.gateway.flowless) as gateway:
        watched = Pubflow(gateway, pubflow.mailbox)
        session_id = watched.log_in()
        watched.validate(query=f"?session_id={session_id}", headers=[("cookie", f"session_id={session_id}")])
        watched.person("GET", f"/auth/me?session_id={session_id}", None, [("referer", f"/x?s={session_id}")])
        watched.person("GET", f"/auth/nothing?session_id={session_id}")
        watched.person("GET", "/auth/me", None, [("x-session-id", session_id)], source=ELSEWHERE)
        gateway.envoy.stop()
        logs = gateway.logs
    assert '"path":"/auth/bridge/validate"' in logs
    assert '"reason":"SESSION_REFUSED"' in logs
    secrets = (
        session_id,
        session_id[5:],
        PASSWORD,
        watched.secret,
        gateway.secret_file.name and watched.client.secret,
    )
    assert [secret for secret in secrets if secret in logs] == []
