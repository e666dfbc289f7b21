"""What Flowless answers to good and to bad requests, over a real socket."""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2, field_mask_pb2, struct_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from flowless.grpc.server import SERVICES
from tests.support.flowless import (
    BROWSER,
    PASSWORD,
    Client,
    Flowless,
    code_of,
    failure_of,
    fresh_email,
    listed_services,
    outcome,
    running_flowless,
    violated_fields,
)
from tests.support.rpc import detail, reason, status_of
from tests.support.stores import counting_random
from tools.processes import temporary_directory
from trust_core.grpc_edge import REVISION_KEY
from trust_core.identifiers import digest, new_session_handle, new_session_id, new_user_id
from trustlayer.v1 import admin_pb2, bridge_pb2, identity_pb2, options_pb2, session_pb2, types_pb2

UNKNOWN_USER = new_user_id(counting_random)
UNKNOWN_HANDLE = new_session_handle(counting_random)
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def flowless() -> Iterator[Flowless]:
    with temporary_directory() as directory, running_flowless(directory, busy_timeout_seconds="0.5") as running:
        yield running


@pytest.fixture(scope="module")
def client(flowless: Flowless) -> Client:
    return flowless.client


# --- health and reflection --------------------------------------------------------------------------------------


def test_health_needs_no_credential_and_knows_every_service(flowless: Flowless) -> None:
    with grpc.insecure_channel(flowless.process.address) as channel:
        health: Any = HealthStub(channel)
        for name in ("", *(service.full_name for service in SERVICES)):
            assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=20).status == SERVING
        unknown = failure_of(lambda: health.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=20))
        assert code_of(unknown) == "NOT_FOUND"


def test_reflection_is_off_unless_asked_for(flowless: Flowless) -> None:
    assert code_of(failure_of(lambda: listed_services(flowless.process.address))) == "UNIMPLEMENTED"


def test_reflection_lists_every_service_when_asked_for() -> None:
    with temporary_directory() as directory, running_flowless(directory, reflection="true") as running:
        assert {service.full_name for service in SERVICES} <= listed_services(running.process.address)


# --- fields -----------------------------------------------------------------------------------------------------


def _register(**fields: Any) -> Callable[[Client], object]:
    request = identity_pb2.RegisterUserRequest(**{"email": "new@example.org", "password": PASSWORD} | fields)
    return lambda client: client.identity.RegisterUser(request)


def _login(**fields: Any) -> Callable[[Client], object]:
    values: dict[str, Any] = {"login": "ada@example.org", "password": PASSWORD, "context": BROWSER} | fields
    return lambda client: client.sessions.Login(session_pb2.LoginRequest(**values))


def _update(*paths: str, **fields: Any) -> Callable[[Client], object]:
    request = identity_pb2.UpdateUserRequest(
        user_id=UNKNOWN_USER, user=types_pb2.User(**fields), update_mask=field_mask_pb2.FieldMask(paths=paths)
    )
    return lambda client: client.identity.UpdateUser(request)


def _validate(**fields: Any) -> Callable[[Client], object]:
    return lambda client: client.validate(new_session_id(counting_random), **fields)


def _scopes(*numbers: int) -> list[options_pb2.Scope.ValueType]:
    return [options_pb2.Scope.ValueType(number) for number in numbers]


def _struct(**values: Any) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct


def _nested(depth: int) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    inner = struct
    for _ in range(depth):
        inner = inner.fields["x"].struct_value
        inner.SetInParent()
    return struct


BAD_REQUESTS: dict[str, tuple[Callable[[Client], object], list[str]]] = {
    "no e-mail address": (_register(email=""), ["email"]),
    "no address at all": (_register(email="nonsense"), ["email"]),
    "an overlong address": (_register(email="x" * 250 + "@example.org"), ["email"]),
    "NUL in the address": (_register(email="a\0@example.org"), ["email"]),
    "a short password": (_register(password="short"), ["password"]),
    "an overlong password": (_register(password="x" * 257), ["password"]),
    "a huge password": (_register(password="x" * 1_000_000), ["password"]),
    "several fields at once": (_register(email="x", password="x", name="\0"), ["email", "name", "password"]),
    "a short user name": (_register(user_name="ab"), ["user_name"]),
    "a user name with a space": (_register(user_name="a b c"), ["user_name"]),
    "a user name that looks like an address": (_register(user_name="ada@x.org"), ["user_name"]),
    "an overlong name": (_register(name="x" * 129), ["name"]),
    "a line break in a name": (_register(last_name="a\nb"), ["last_name"]),
    "an overlong phone number": (_register(phone="1" * 33), ["phone"]),
    "a picture without https": (_register(picture_url="http://example.org/x"), ["picture_url"]),
    "a locale that is none": (_register(locale="en_GB!"), ["locale"]),
    "an overlong user type": (_register(user_type="x" * 65), ["user_type"]),
    "a role with a space": (_register(roles=["a b"]), ["roles"]),
    "an empty role": (_register(roles=[""]), ["roles"]),
    "too many roles": (_register(roles=[str(n) for n in range(65)]), ["roles"]),
    "many bad roles": (_register(roles=["a b"] * 65), ["roles", "roles"]),
    "attributes that are too large": (_register(attributes=_struct(x="y" * 5_000)), ["attributes"]),
    "attributes that are not finite": (_register(attributes=_struct(x=float("nan"))), ["attributes"]),
    "infinite attributes": (_register(attributes=_struct(x=float("-inf"))), ["attributes"]),
    "NUL in attributes": (_register(attributes=_struct(x="\0")), ["attributes"]),
    "no login": (_login(login=""), ["login"]),
    "an overlong login": (_login(login="x" * 255), ["login"]),
    "a password that nobody can have set": (_login(password="x" * 257), ["password"]),
    "no password at login": (_login(password=""), ["password"]),
    "a huge password at login": (_login(password="x" * 1_000_000), ["password"]),
    "no context": (_login(context=None), ["context.client_ip"]),
    "no client IP": (_login(context=types_pb2.RequestContext(user_agent="x")), ["context.client_ip"]),
    "a client IP that is none": (
        _login(context=types_pb2.RequestContext(client_ip="300.1.1.1")),
        ["context.client_ip"],
    ),
    "a client IP with a zone": (
        _login(context=types_pb2.RequestContext(client_ip="fe80::1%eth0")),
        ["context.client_ip"],
    ),
    "an overlong fingerprint": (
        _login(context=types_pb2.RequestContext(client_ip="::1", device_fingerprint="x" * 513)),
        ["context.device_fingerprint"],
    ),
    "an overlong user agent": (
        _login(context=types_pb2.RequestContext(client_ip="::1", user_agent="ü" * 513)),
        ["context.user_agent"],
    ),
    "an overlong device name": (_login(device_name="x" * 129), ["device_name"]),
    "no mask": (_update(name="x"), ["update_mask"]),
    "a mask of what cannot be changed": (_update("email", "id"), ["update_mask", "update_mask"]),
    "a bad value in the mask": (_update("name", name="x" * 129), ["name"]),
    "an unknown mode": (_validate(mode=99), ["mode"]),
    "a negative mode": (_validate(mode=-1), ["mode"]),
    "a bad client IP": (_validate(context=types_pb2.RequestContext(client_ip="x")), ["context.client_ip"]),
    "a negative revision": (_validate(min_revision=-1), ["min_revision"]),
    "a user id that is none": (
        lambda c: c.identity.GetUser(identity_pb2.GetUserRequest(user_id="usr_\0")),
        ["user_id"],
    ),
    "a handle that is none": (
        lambda c: c.sessions.RevokeSession(session_pb2.RevokeSessionRequest(handle="sess_x")),
        ["handle"],
    ),
    "an exception that is none": (
        lambda c: c.sessions.RevokeUserSessions(
            session_pb2.RevokeUserSessionsRequest(user_id=UNKNOWN_USER, except_handle="x")
        ),
        ["except_handle"],
    ),
    "a session that is none, at a new password": (
        lambda c: c.identity.ChangePassword(
            identity_pb2.ChangePasswordRequest(
                user_id=UNKNOWN_USER, current_password="x", new_password=PASSWORD, session_id="x"
            )
        ),
        ["session_id", "context.client_ip"],
    ),
    "a negative page size": (
        lambda c: c.identity.ListUsers(identity_pb2.ListUsersRequest(page_size=-1)),
        ["page_size"],
    ),
    "an overlong page": (
        lambda c: c.sessions.ListSessions(session_pb2.ListSessionsRequest(user_id=UNKNOWN_USER, page_size=501)),
        ["page_size"],
    ),
    "a garbage page token": (
        lambda c: c.identity.ListUsers(identity_pb2.ListUsersRequest(page_token="gärbage")),
        ["page_token"],
    ),
    "a page token of another RPC": (
        lambda c: c.sessions.ListSessions(
            session_pb2.ListSessionsRequest(user_id=UNKNOWN_USER, page_token="dXNyX3g=")
        ),
        ["page_token"],
    ),
    "a bridge without a name": (
        lambda c: c.admin.CreateBridge(admin_pb2.CreateBridgeRequest(scopes=_scopes(1))),
        ["name"],
    ),
    "a bridge without scopes": (lambda c: c.admin.CreateBridge(admin_pb2.CreateBridgeRequest(name="x")), ["scopes"]),
    "a scope that no bridge can hold": (
        lambda c: c.admin.CreateBridge(admin_pb2.CreateBridgeRequest(name="x", scopes=_scopes(6))),
        ["scopes"],
    ),
    "an unknown scope": (
        lambda c: c.admin.CreateBridge(admin_pb2.CreateBridgeRequest(name="x", scopes=_scopes(1, 99))),
        ["scopes"],
    ),
    "an overlap that is negative": (
        lambda c: c.admin.RotateBridgeSecret(
            admin_pb2.RotateBridgeSecretRequest(bridge_id="0" * 16, overlap=duration_pb2.Duration(seconds=-1))
        ),
        ["overlap"],
    ),
    "an overlap that is no duration": (
        lambda c: c.admin.RotateBridgeSecret(
            admin_pb2.RotateBridgeSecretRequest(bridge_id="0" * 16, overlap=duration_pb2.Duration(seconds=2**62))
        ),
        ["overlap"],
    ),
    "activity of a digest that is none": (
        lambda c: c.bridge.ReportActivity(
            bridge_pb2.ReportActivityRequest(activities=[bridge_pb2.SessionActivity(session_digest=b"x")])
        ),
        ["activities"],
    ),
    "activity longer ago than there was time": (
        lambda c: c.bridge.ReportActivity(
            bridge_pb2.ReportActivityRequest(
                activities=[
                    bridge_pb2.SessionActivity(
                        session_digest=bytes(32), idle_for=duration_pb2.Duration(seconds=86_399_999_999_999)
                    )
                ]
            )
        ),
        ["activities.idle_for"],
    ),
    "too much activity": (
        lambda c: c.bridge.ReportActivity(
            bridge_pb2.ReportActivityRequest(
                activities=[bridge_pb2.SessionActivity(session_digest=bytes(32))] * 1_001
            )
        ),
        ["activities"],
    ),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_a_field_that_cannot_be_accepted_is_named(client: Client, what: str) -> None:
    call, fields = BAD_REQUESTS[what]
    error = failure_of(lambda: call(client))
    assert (code_of(error), reason(error)) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert violated_fields(error)[: len(fields)] == fields
    assert set(violated_fields(error)) == set(fields)


@pytest.mark.parametrize(
    "call",
    [
        _update(*(f"nothing_{n}" * 5 for n in range(2_000))),
        lambda c: c.admin.CreateBridge(admin_pb2.CreateBridgeRequest(name="x", scopes=_scopes(*range(99, 5_000)))),
        _register(roles=[f"bad role {n}" * 5 for n in range(5_000)]),
    ],
)
def test_very_many_bad_values_still_get_a_clear_answer(client: Client, call: Callable[[Client], object]) -> None:
    assert outcome(lambda: call(client)) == ("INVALID_ARGUMENT", "INVALID_FIELD")


def test_a_message_that_is_too_large_is_refused(client: Client) -> None:
    assert outcome(lambda: client.validate("x" * 1_100_000))[0] == "RESOURCE_EXHAUSTED"
    assert client.denial("x" * 1_000_000) == "MALFORMED"


@pytest.mark.parametrize("depth", [15, 16, 32, 33])
def test_attributes_are_as_deep_as_they_were_given_or_refused(client: Client, depth: int) -> None:
    """An answer can nest deeper than its request: what was accepted has to be readable wherever users stand."""
    request = identity_pb2.RegisterUserRequest(email=fresh_email(), password=PASSWORD, attributes=_nested(depth))
    code, why = outcome(lambda: client.identity.RegisterUser(request))
    if code != "OK":
        assert (code, why) in {("INVALID_ARGUMENT", "INVALID_FIELD"), ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")}
        return
    login = session_pb2.LoginRequest(login=request.email, password=PASSWORD, context=BROWSER)
    session = client.sessions.Login(login)
    active = client.validate(session.session_id).active
    assert active.session.user.attributes == request.attributes
    page = client.identity.ListUsers(identity_pb2.ListUsersRequest(page_size=500))
    assert request.attributes in [user.attributes for user in page.users]


# --- users ------------------------------------------------------------------------------------------------------


def test_a_user_comes_back_as_it_was_registered(client: Client) -> None:
    email = fresh_email()
    user = client.register(
        email.upper(),
        user_name="Grace.H",
        name="Grace",
        last_name="Höpper",
        phone="+1 2",
        picture_url="https://example.org/g.png",
        user_type="person",
        locale="en-US",
        roles=["b", "a", "b"],
        attributes=_struct(plan="free", count=2.0, nothing=None, yes=True, deep={"x": [1.5]}),
    )
    assert (user.email, list(user.roles), user.status) == (email.upper(), ["a", "b"], types_pb2.USER_STATUS_ACTIVE)
    assert not user.email_verified
    assert client.identity.GetUser(identity_pb2.GetUserRequest(user_id=user.id)).user == user
    for login in (email, "grace.h", "GRACE.H"):
        assert client.identity.LookUpUser(identity_pb2.LookUpUserRequest(login=login)).user == user


def test_names_that_are_taken_are_told_apart(client: Client) -> None:
    user = client.register(user_name="taken.name")
    assert outcome(lambda: client.register(user.email.upper())) == ("ALREADY_EXISTS", "EMAIL_TAKEN")
    assert outcome(lambda: client.register(user_name="TAKEN.NAME")) == ("ALREADY_EXISTS", "USER_NAME_TAKEN")


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda c: c.identity.GetUser(identity_pb2.GetUserRequest(user_id=UNKNOWN_USER)), "USER_NOT_FOUND"),
        (lambda c: c.identity.LookUpUser(identity_pb2.LookUpUserRequest(login="a@b.org")), "USER_NOT_FOUND"),
        (lambda c: c.identity.LookUpUser(identity_pb2.LookUpUserRequest(login="no\0body")), "USER_NOT_FOUND"),
        (lambda c: c.identity.LookUpUser(identity_pb2.LookUpUserRequest(login="ключ@")), "USER_NOT_FOUND"),
        (lambda c: c.identity.DisableUser(identity_pb2.DisableUserRequest(user_id=UNKNOWN_USER)), "USER_NOT_FOUND"),
        (lambda c: c.identity.EnableUser(identity_pb2.EnableUserRequest(user_id=UNKNOWN_USER)), "USER_NOT_FOUND"),
        (_update("name", name="x"), "USER_NOT_FOUND"),
        (lambda c: c.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id="0" * 15 + "z")), "BRIDGE_NOT_FOUND"),
    ],
)
def test_what_does_not_exist_is_not_found(client: Client, call: Callable[[Client], object], expected: str) -> None:
    assert outcome(lambda: call(client)) == ("NOT_FOUND", expected)


def test_users_are_listed_a_page_at_a_time(client: Client) -> None:
    for _ in range(5):
        client.register()
    seen: list[str] = []
    token = ""
    while True:
        page = client.identity.ListUsers(identity_pb2.ListUsersRequest(page_size=3, page_token=token))
        seen += [user.id for user in page.users]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(set(seen))
    assert len(seen) >= 5


def _login_refusal(client: Client, login: str, password: str) -> tuple[str, bytes]:
    request = session_pb2.LoginRequest(login=login, password=password, context=BROWSER)
    error = failure_of(lambda: client.sessions.Login(request, metadata=(("x-request-id", "same"),)))
    return code_of(error), status_of(error).SerializeToString()


def test_a_refused_login_does_not_say_why(client: Client) -> None:
    good, disabled, deleted = client.register(), client.register(), client.register()
    client.identity.DisableUser(identity_pb2.DisableUserRequest(user_id=disabled.id))
    client.identity.DeleteUser(identity_pb2.DeleteUserRequest(user_id=deleted.id))
    wrong = f"{PASSWORD}!"
    refusals = {
        _login_refusal(client, good.email, wrong),
        _login_refusal(client, disabled.email, PASSWORD),
        _login_refusal(client, disabled.email, wrong),
        _login_refusal(client, deleted.email, PASSWORD),
        _login_refusal(client, "nobody@example.org", PASSWORD),
        _login_refusal(client, "nobody", PASSWORD),
        _login_refusal(client, "no\0body@", PASSWORD),
        _login_refusal(client, good.id, PASSWORD),
        _login_refusal(client, good.email, PASSWORD + "\0"),
    }
    assert len(refusals) == 1
    assert refusals.pop()[0] == "UNAUTHENTICATED"


def _change(
    client: Client, user_id: str, current: str, new: str, *, keep: str = ""
) -> identity_pb2.ChangePasswordResponse:
    return client.identity.ChangePassword(
        identity_pb2.ChangePasswordRequest(
            user_id=user_id, current_password=current, new_password=new, session_id=keep, context=BROWSER
        )
    )


def test_a_new_password_ends_the_other_sessions_and_the_old_password(client: Client) -> None:
    user = client.register()
    kept, lost = client.log_in(user), client.log_in(user)
    changed = _change(client, user.id, PASSWORD, "a new password entirely", keep=kept.session_id)
    assert client.denial(changed.session_id, min_revision=changed.revision) == ""
    assert client.denial(kept.session_id, min_revision=changed.revision) == "UNKNOWN"
    assert client.denial(lost.session_id, min_revision=changed.revision) == "REVOKED"
    assert outcome(lambda: client.log_in(user)) == ("UNAUTHENTICATED", "LOGIN_REFUSED")
    refused = ("UNAUTHENTICATED", "LOGIN_REFUSED")
    assert outcome(lambda: _change(client, user.id, PASSWORD, "another password entirely")) == refused
    assert outcome(lambda: _change(client, UNKNOWN_USER, PASSWORD, "another password entirely")) == refused


def test_the_same_password_typed_on_another_keyboard_matches(client: Client) -> None:
    email = fresh_email()
    composed, decomposed = "pässwörd ﬁnery", "pa\u0308sswo\u0308rd finery"
    client.identity.RegisterUser(identity_pb2.RegisterUserRequest(email=email, password=composed))
    client.sessions.Login(session_pb2.LoginRequest(login=email, password=decomposed, context=BROWSER))


# --- sessions ---------------------------------------------------------------------------------------------------


def test_a_login_answers_a_session_that_is_active_and_says_what_it_is(client: Client) -> None:
    user = client.register(roles=["editor"])
    login = client.log_in(user, device_name="Firefox on Linux")
    assert re.fullmatch(r"sess_[0-9A-Za-z]{49}", login.session_id)
    answer = client.validate(login.session_id)
    session = answer.active.session
    assert session == login.session
    assert session.user == user
    assert session.authentication_methods == ["password"]
    assert session.satisfiable_modes == [1, 2, 3]
    assert answer.freshness.tier == types_pb2.TIER_DATABASE
    assert answer.active.binding.client_ip == bytes([203, 0, 113, 7])
    assert 0 < answer.active.idle_remaining.seconds <= 3_600 < answer.active.absolute_remaining.seconds <= 86_400
    assert login.session_id not in str(answer)


def _context(**changes: str) -> types_pb2.RequestContext:
    context = types_pb2.RequestContext()
    context.CopyFrom(BROWSER)
    for name, value in changes.items():
        setattr(context, name, value)
    return context


@pytest.mark.parametrize(
    ("mode", "changes", "denial"),
    [
        (1, {}, ""),
        (2, {}, ""),
        (3, {}, ""),
        (1, {"client_ip": "::ffff:203.0.113.7", "device_fingerprint": "x", "user_agent": "x"}, ""),
        (1, {"client_ip": "203.0.113.8"}, "IP_MISMATCH"),
        (2, {"device_fingerprint": "other"}, "DEVICE_MISMATCH"),
        (3, {"user_agent": "other"}, "USER_AGENT_MISMATCH"),
        (3, {"user_agent": ""}, "CONTEXT_MISSING"),
        (1, {"client_ip": ""}, "CONTEXT_MISSING"),
        (0, {"client_ip": "", "device_fingerprint": "", "user_agent": ""}, ""),
    ],
)
def test_flowless_checks_the_context_that_the_mode_asks_for(
    client: Client, mode: int, changes: dict[str, str], denial: str
) -> None:
    session_id = client.new_session().session_id
    assert client.denial(session_id, mode=mode, context=_context(**changes)) == denial


def test_the_binding_is_kept_from_who_has_the_context_checked(client: Client) -> None:
    session_id = client.new_session().session_id
    assert client.validate(session_id).active.HasField("binding")
    assert not client.validate(session_id, mode=1, context=BROWSER).active.HasField("binding")


def test_what_was_not_bound_at_login_cannot_be_checked(client: Client) -> None:
    user = client.register()
    bare = types_pb2.RequestContext(client_ip="2001:db8::1")
    login = client.sessions.Login(session_pb2.LoginRequest(login=user.email, password=PASSWORD, context=bare))
    assert login.session.satisfiable_modes == [1]
    sent = _context(client_ip="2001:0db8::0001")
    assert client.denial(login.session_id, mode=1, context=sent) == ""
    assert client.denial(login.session_id, mode=2, context=sent) == "CONTEXT_NOT_BOUND"


MALFORMED_IDS = {
    "nothing": "",
    "garbage": "garbage",
    "the prefix alone": "sess_",
    "a bad checksum": "sess_" + "0" * 49,
    "overlong": new_session_id(counting_random) + "0",
    "huge": "sess_" + "0" * 100_000,
    "NUL behind": new_session_id(counting_random) + "\0",
    "NUL inside": "sess_" + "\0" * 49,
    "a line break behind": new_session_id(counting_random) + "\n",
    "other digits": "sess_" + "٣" * 49,
    "another case": new_session_id(counting_random).upper(),
    "SQL": "sess_' OR 1=1 --",
}


@pytest.mark.parametrize("session_id", MALFORMED_IDS.values(), ids=MALFORMED_IDS.keys())
def test_what_is_no_session_id_is_denied_without_asking_anybody(client: Client, session_id: str) -> None:
    answer = client.validate(session_id)
    assert answer.denial.reason == types_pb2.DENIAL_REASON_MALFORMED
    assert (answer.freshness.tier, answer.freshness.revision) == (types_pb2.TIER_NONE, 0)
    for call in (
        lambda: client.sessions.Logout(session_pb2.LogoutRequest(session_id=session_id)),
        lambda: client.sessions.RotateSession(session_pb2.RotateSessionRequest(session_id=session_id)),
    ):
        error = failure_of(call)
        assert (reason(error), violated_fields(error)) == ("INVALID_FIELD", ["session_id"])


def test_a_session_id_that_nobody_has_is_unknown(client: Client) -> None:
    unknown = new_session_id(counting_random)
    _, end = client.end()
    assert client.denial(unknown) == "UNKNOWN"
    assert client.sessions.Logout(session_pb2.LogoutRequest(session_id=unknown)).revision == end
    assert client.revoke(UNKNOWN_HANDLE) == end
    rotate = session_pb2.RotateSessionRequest(session_id=unknown)
    refused = ("FAILED_PRECONDITION", "SESSION_NOT_ACTIVE")
    assert outcome(lambda: client.sessions.RotateSession(rotate)) == refused


@pytest.mark.parametrize(
    ("change", "denial"),
    [("expires_us = last_seen_us - 1", "EXPIRED"), ("last_seen_us = last_seen_us - 3601 * 1000000", "IDLE")],
)
def test_a_session_past_its_time_is_denied_everywhere(
    flowless: Flowless, client: Client, change: str, denial: str
) -> None:
    login = client.new_session()
    with flowless.sql() as database:
        database.execute(f"UPDATE sessions SET {change} WHERE handle = ?", (login.session.handle,))
    assert client.denial(login.session_id) == denial
    rotate = session_pb2.RotateSessionRequest(session_id=login.session_id)
    refused = ("FAILED_PRECONDITION", "SESSION_NOT_ACTIVE")
    assert outcome(lambda: client.sessions.RotateSession(rotate)) == refused
    request = session_pb2.ListSessionsRequest(user_id=login.session.user.id)
    assert not client.sessions.ListSessions(request).sessions
    activity = bridge_pb2.SessionActivity(session_digest=digest(login.session_id))
    report = bridge_pb2.ReportActivityRequest(activities=[activity])
    assert not client.bridge.ReportActivity(report).sessions
    assert client.denial(login.session_id) == denial


def test_a_logout_ends_the_session_and_can_be_repeated(client: Client) -> None:
    login = client.new_session()
    request = session_pb2.LogoutRequest(session_id=login.session_id)
    revision = client.sessions.Logout(request).revision
    assert client.denial(login.session_id, min_revision=revision) == "REVOKED"
    assert client.sessions.Logout(request).revision >= revision


def test_a_rotated_session_goes_on_under_its_new_id_alone(client: Client) -> None:
    login = client.new_session()
    request = session_pb2.RotateSessionRequest(session_id=login.session_id)
    rotated = client.sessions.RotateSession(request)
    assert rotated.session == login.session
    assert client.denial(login.session_id, min_revision=rotated.revision) == "UNKNOWN"
    assert client.denial(rotated.session_id, mode=3, context=BROWSER) == ""
    again = outcome(lambda: client.sessions.RotateSession(request))
    assert again == ("FAILED_PRECONDITION", "SESSION_NOT_ACTIVE")


def test_sessions_are_listed_by_handle_newest_first(client: Client) -> None:
    user = client.register()
    logins = [client.log_in(user, device_name=f"device {n}") for n in range(5)]
    seen: list[session_pb2.SessionSummary] = []
    token = ""
    while True:
        request = session_pb2.ListSessionsRequest(user_id=user.id, page_size=2, page_token=token)
        page = client.sessions.ListSessions(request)
        seen += page.sessions
        token = page.next_page_token
        if not token:
            break
    assert [s.handle for s in seen] == [login.session.handle for login in reversed(logins)]
    assert [s.device_name for s in seen] == [f"device {n}" for n in (4, 3, 2, 1, 0)]
    assert {s.client_ip for s in seen} == {"203.0.113.7"}
    assert not any(login.session_id in str(seen) for login in logins)


def test_all_of_a_users_sessions_end_but_the_named_one(client: Client) -> None:
    user, other = client.register(), client.new_session()
    kept, lost = client.log_in(user), client.log_in(user)
    revision = client.sessions.RevokeUserSessions(
        session_pb2.RevokeUserSessionsRequest(user_id=user.id, except_handle=kept.session.handle)
    ).revision
    denials = [client.denial(s.session_id, min_revision=revision) for s in (kept, lost, other)]
    assert denials == ["", "REVOKED", ""]
    unknown = session_pb2.RevokeUserSessionsRequest(user_id=UNKNOWN_USER)
    assert client.sessions.RevokeUserSessions(unknown).revision == client.end()[1]


def test_a_users_changes_are_seen_by_the_next_validation(client: Client) -> None:
    user = client.register(roles=["reader"])
    login = client.log_in(user)
    update = identity_pb2.UpdateUserRequest(
        user_id=user.id,
        user=types_pb2.User(roles=["editor"], name="not in the mask"),
        update_mask=field_mask_pb2.FieldMask(paths=["roles"]),
    )
    updated = client.identity.UpdateUser(update)
    seen = client.validate(login.session_id, min_revision=updated.revision).active.session.user
    assert (list(seen.roles), seen.name) == (["editor"], "")
    disabled = client.identity.DisableUser(identity_pb2.DisableUserRequest(user_id=user.id))
    assert client.denial(login.session_id, min_revision=disabled.revision) == "USER_DISABLED"
    enabled = client.identity.EnableUser(identity_pb2.EnableUserRequest(user_id=user.id))
    assert client.denial(login.session_id, min_revision=enabled.revision) == "REVOKED"
    deleted = client.identity.DeleteUser(identity_pb2.DeleteUserRequest(user_id=user.id))
    assert client.denial(login.session_id, min_revision=deleted.revision) == "UNKNOWN"


def test_an_answer_older_than_the_revision_asked_for_is_not_given(client: Client) -> None:
    login = client.new_session()
    _, end = client.end()
    error = failure_of(lambda: client.validate(login.session_id, min_revision=end + 1))
    assert (code_of(error), reason(error)) == ("UNAVAILABLE", "REVISION_NOT_REACHED")
    assert detail(error, error_details_pb2.RetryInfo) is not None


def test_every_call_that_writes_the_log_says_its_revision_in_the_trailing_metadata(client: Client) -> None:
    user = client.register()
    login = client.log_in(user)
    calls: list[tuple[Any, Any]] = [
        (client.sessions.RotateSession, session_pb2.RotateSessionRequest(session_id=login.session_id)),
        (client.sessions.Logout, session_pb2.LogoutRequest(session_id=login.session_id)),
        (client.sessions.RevokeSession, session_pb2.RevokeSessionRequest(handle=login.session.handle)),
        (client.sessions.RevokeUserSessions, session_pb2.RevokeUserSessionsRequest(user_id=user.id)),
        (
            client.identity.UpdateUser,
            identity_pb2.UpdateUserRequest(user_id=user.id, update_mask=field_mask_pb2.FieldMask(paths=["name"])),
        ),
        (
            client.identity.ChangePassword,
            identity_pb2.ChangePasswordRequest(
                user_id=user.id, current_password=PASSWORD, new_password="another password", context=BROWSER
            ),
        ),
        (client.identity.DisableUser, identity_pb2.DisableUserRequest(user_id=user.id)),
        (client.identity.EnableUser, identity_pb2.EnableUserRequest(user_id=user.id)),
        (client.identity.DeleteUser, identity_pb2.DeleteUserRequest(user_id=user.id)),
    ]
    for method, request in calls:
        response, call = method.with_call(request)
        assert dict(call.trailing_metadata())[REVISION_KEY] == str(response.revision)


def test_a_login_says_the_logs_end_since_it_may_have_ended_the_oldest_session(client: Client) -> None:
    user = client.register()
    client.revoke(client.log_in(user).session.handle)
    request = session_pb2.LoginRequest(login=user.email, password=PASSWORD, context=BROWSER)
    _, call = client.sessions.Login.with_call(request)
    _, end = client.end()
    assert 0 < int(dict(call.trailing_metadata())[REVISION_KEY]) <= end


def test_who_proves_again_who_they_are_gets_a_new_id_and_a_new_login_time(client: Client) -> None:
    user = client.register()
    login = client.log_in(user)

    def again(session_id: str, password: str) -> session_pb2.ReauthenticateResponse:
        return client.sessions.Reauthenticate(
            session_pb2.ReauthenticateRequest(session_id=session_id, password=password, context=BROWSER)
        )

    assert outcome(lambda: again(login.session_id, "wrong password")) == ("UNAUTHENTICATED", "LOGIN_REFUSED")
    assert client.denial(login.session_id) == ""
    renewed = again(login.session_id, PASSWORD)
    assert renewed.session.handle == login.session.handle
    assert renewed.session.create_time == login.session.create_time
    assert renewed.session.authenticate_time.ToNanoseconds() > login.session.authenticate_time.ToNanoseconds()
    assert client.denial(renewed.session_id, min_revision=renewed.revision) == ""
    assert client.denial(login.session_id, min_revision=renewed.revision) == "UNKNOWN"
    assert outcome(lambda: again(login.session_id, PASSWORD)) == ("FAILED_PRECONDITION", "SESSION_NOT_ACTIVE")


def test_new_roles_say_that_the_session_id_should_be_replaced(client: Client) -> None:
    user = client.register()
    login = client.log_in(user)
    assert not login.session.rotation_due
    update = client.identity.UpdateUser(
        identity_pb2.UpdateUserRequest(
            user_id=user.id,
            user=types_pb2.User(roles=["admin"]),
            update_mask=field_mask_pb2.FieldMask(paths=["roles"]),
        )
    )
    answer = client.validate(login.session_id, min_revision=update.revision)
    assert list(answer.active.session.user.roles) == ["admin"]
    assert answer.active.session.rotation_due
    rotated = client.sessions.RotateSession(session_pb2.RotateSessionRequest(session_id=login.session_id))
    assert not rotated.session.rotation_due


# --- activity ---------------------------------------------------------------------------------------------------


def _report(client: Client, session_id: str, **idle: int) -> int | None:
    """Report use; return the seconds of idle time that are left, if the session is active."""
    activity = bridge_pb2.SessionActivity(session_digest=digest(session_id), idle_for=duration_pb2.Duration(**idle))
    answer = client.bridge.ReportActivity(bridge_pb2.ReportActivityRequest(activities=[activity]))
    return answer.sessions[0].idle_remaining.seconds if answer.sessions else None


def test_reported_use_moves_idle_expiry(flowless: Flowless, client: Client) -> None:
    login = client.new_session()
    with flowless.sql() as database:
        back = "UPDATE sessions SET last_seen_us = last_seen_us - 3000 * 1000000 WHERE handle = ?"
        database.execute(back, (login.session.handle,))
    assert client.validate(login.session_id).active.idle_remaining.seconds <= 600
    left = _report(client, login.session_id, seconds=30)
    assert left is not None
    assert 3_500 < left <= 3_570
    assert client.validate(login.session_id).active.idle_remaining.seconds > 3_500


@pytest.mark.parametrize("idle_for", [{"seconds": 315_576_000_000}, {"seconds": 86_400}, {"nanos": 999_999_999}])
def test_use_of_any_age_is_accepted_and_never_shortens_a_session(client: Client, idle_for: dict[str, int]) -> None:
    login = client.new_session()
    left = _report(client, login.session_id, **idle_for)
    assert left is not None
    assert left > 3_500
    assert client.denial(login.session_id) == ""


def test_use_of_a_session_that_is_not_active_is_passed_over(client: Client) -> None:
    login = client.new_session()
    client.revoke(login.session.handle)
    assert _report(client, login.session_id) is None
    assert _report(client, new_session_id(counting_random)) is None


# --- many at once -----------------------------------------------------------------------------------------------


def test_calls_at_once_do_not_get_in_each_others_way(client: Client) -> None:
    users = [client.register() for _ in range(4)]
    barrier = threading.Barrier(len(users))

    def life(user: types_pb2.User) -> list[str]:
        barrier.wait(20)
        denials = []
        for _ in range(5):
            login = client.log_in(user)
            denials.append(client.denial(login.session_id))
            revision = client.revoke(login.session.handle)
            denials.append(client.denial(login.session_id, min_revision=revision))
        return denials

    with ThreadPoolExecutor(len(users)) as pool:
        assert list(pool.map(life, users)) == [["", "REVOKED"] * 5] * len(users)
