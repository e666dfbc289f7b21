"""What a real Flowless writes into its audit log, and what the commands make of it."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2, field_mask_pb2
from google.protobuf.descriptor_pb2 import MethodOptions

from flowless.domain.bridges import Scope
from tests.support.flowless import (
    BROWSER,
    METHODS,
    PASSWORD,
    Client,
    Flowless,
    failure_of,
    outcome,
    running_flowless,
    violated_fields,
)
from tests.support.links import NEW_PASSWORD, Links
from tools.processes import temporary_directory
from trustlayer.v1 import admin_pb2, bridge_pb2, identity_pb2, session_pb2, trust_token_pb2, types_pb2


@pytest.fixture(scope="module")
def flowless() -> Iterator[Flowless]:
    with temporary_directory() as directory, running_flowless(directory) as running:
        yield running


@pytest.fixture(scope="module")
def client(flowless: Flowless) -> Client:
    return flowless.client


def _events(client: Client, *, page_size: int = 100, user_id: str = "") -> list[admin_pb2.AuditEvent]:
    request = admin_pb2.ListAuditEventsRequest(page_size=page_size, user_id=user_id)
    return list(client.admin.ListAuditEvents(request).events)


NO_EVENT = {
    "BridgeService/ReportActivity": "use of sessions, too frequent and already in last_seen",
    "IdentityService/ImportUsers": "in its own tests",
}
"""RPCs with side effects that leave no event here, and why."""


def _calls(client: Client) -> dict[str, tuple[Callable[[], object], str]]:
    """RPC -> a call of it that changes something, and the action that it leaves."""
    links = Links(client)
    user = client.register()
    login = client.log_in(user)
    bridge_id, _ = client.create_bridge(Scope.VALIDATE)
    identity, sessions, admin = client.identity, client.sessions, client.admin

    def of(purpose: str) -> str:
        return links.issue(purpose, client.register().id)

    def destroy() -> object:
        rotate = admin_pb2.RotateSigningKeyRequest(overlap=duration_pb2.Duration(seconds=60))
        admin.RotateSigningKey(rotate)
        keys = admin.ListSigningKeys(admin_pb2.ListSigningKeysRequest()).keys
        retired = next(key for key in keys if key.state == admin_pb2.SIGNING_KEY_STATE_RETIRED)
        return admin.DestroySigningKey(admin_pb2.DestroySigningKeyRequest(key_id=retired.key_id))

    def revoke_tokens() -> object:
        email = client.register().email
        links.issue("magic_link", email)
        return client.tokens.RevokeTrustTokens(
            trust_token_pb2.RevokeTrustTokensRequest(subject=email, purpose="magic_link")
        )

    mask = field_mask_pb2.FieldMask(paths=["roles"])
    change = identity_pb2.ChangePasswordRequest(
        user_id=user.id, current_password=PASSWORD, new_password=NEW_PASSWORD, context=BROWSER
    )
    again = session_pb2.ReauthenticateRequest(session_id=login.session_id, password=PASSWORD, context=BROWSER)
    return {
        "IdentityService/RegisterUser": (client.register, "user.register"),
        "IdentityService/UpdateUser": (
            lambda: identity.UpdateUser(identity_pb2.UpdateUserRequest(user_id=user.id, update_mask=mask)),
            "user.update",
        ),
        "IdentityService/DisableUser": (
            lambda: identity.DisableUser(identity_pb2.DisableUserRequest(user_id=client.register().id)),
            "user.disable",
        ),
        "IdentityService/EnableUser": (lambda: _enable(client), "user.enable"),
        "IdentityService/DeleteUser": (
            lambda: identity.DeleteUser(identity_pb2.DeleteUserRequest(user_id=client.register().id)),
            "user.delete",
        ),
        "SessionService/Reauthenticate": (lambda: sessions.Reauthenticate(again), "session.reauthenticate"),
        "IdentityService/ChangePassword": (lambda: identity.ChangePassword(change), "password.change"),
        "IdentityService/ResetPassword": (lambda: links.reset(of("password_reset")), "password.reset"),
        "IdentityService/AcceptInvitation": (
            lambda: links.accept(links.issue("invitation", "invited@example.org")),
            "invitation.accept",
        ),
        "IdentityService/StartEmailChange": (
            lambda: links.change_email(client.register(), "start@example.org"),
            "email.change_start",
        ),
        "IdentityService/ConfirmEmailChange": (
            lambda: links.confirm_email(links.change_email(client.register(), "confirm@example.org")),
            "email.change",
        ),
        "SessionService/Login": (client.new_session, "session.login"),
        "SessionService/LoginWithTrustToken": (lambda: links.log_in(of("magic_link")), "session.login"),
        "SessionService/RotateSession": (
            lambda: sessions.RotateSession(
                session_pb2.RotateSessionRequest(session_id=client.new_session().session_id)
            ),
            "session.rotate",
        ),
        "SessionService/Logout": (
            lambda: sessions.Logout(session_pb2.LogoutRequest(session_id=client.new_session().session_id)),
            "session.logout",
        ),
        "BridgeService/ReportMismatch": (
            lambda: client.bridge.ReportMismatch(
                bridge_pb2.ReportMismatchRequest(
                    session_id=client.new_session().session_id,
                    mode=types_pb2.VALIDATION_MODE_STANDARD,
                    context=types_pb2.RequestContext(client_ip="198.51.100.9"),
                )
            ),
            "session.mismatch",
        ),
        "SessionService/RevokeSession": (
            lambda: client.revoke(client.new_session().session.handle),
            "session.revoke",
        ),
        "SessionService/RevokeUserSessions": (
            lambda: sessions.RevokeUserSessions(session_pb2.RevokeUserSessionsRequest(user_id=user.id)),
            "session.revoke_all",
        ),
        "TrustTokenService/IssueTrustToken": (lambda: of("magic_link"), "trust_token.issue"),
        "TrustTokenService/ConsumeTrustToken": (
            lambda: links.consume(of("email_verify"), "email_verify"),
            "email.verify",
        ),
        "TrustTokenService/RevokeTrustTokens": (revoke_tokens, "trust_token.revoke"),
        "AdminService/CreateBridge": (lambda: client.create_bridge(Scope.VALIDATE), "bridge.create"),
        "AdminService/RotateBridgeSecret": (
            lambda: admin.RotateBridgeSecret(admin_pb2.RotateBridgeSecretRequest(bridge_id=bridge_id)),
            "bridge.rotate",
        ),
        "AdminService/BindBridge": (
            lambda: admin.BindBridge(admin_pb2.BindBridgeRequest(bridge_id=bridge_id, client_id="shop.internal")),
            "bridge.bind",
        ),
        "AdminService/RevokeBridge": (
            lambda: admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=bridge_id)),
            "bridge.revoke",
        ),
        "AdminService/RotateSigningKey": (
            lambda: admin.RotateSigningKey(
                admin_pb2.RotateSigningKeyRequest(overlap=duration_pb2.Duration(seconds=60))
            ),
            "signing_key.rotate",
        ),
        "AdminService/DestroySigningKey": (destroy, "signing_key.destroy"),
    }


def _enable(client: Client) -> object:
    user_id = client.register().id
    client.identity.DisableUser(identity_pb2.DisableUserRequest(user_id=user_id))
    return client.identity.EnableUser(identity_pb2.EnableUserRequest(user_id=user_id))


def test_every_rpc_that_changes_something_leaves_its_event(client: Client) -> None:
    calls = _calls(client)
    changing = {
        path.removeprefix("/trustlayer.v1.")
        for path, method in METHODS.items()
        if method.GetOptions().idempotency_level != MethodOptions.NO_SIDE_EFFECTS
        and path.startswith("/trustlayer.v1.")  # those of another wire: test_pubflow_envoy.py
    }
    assert changing == calls.keys() | NO_EVENT.keys()
    for name, (call, action) in calls.items():
        call()
        (event,) = _events(client, page_size=1)
        assert (event.action, event.outcome) == (action, "success"), name
        assert event.actor.startswith("bridge:"), name
        assert event.subject, name
        assert event.request_id, name


@pytest.mark.parametrize("known", [True, False])
def test_a_refused_login_leaves_an_event_that_says_from_where(client: Client, known: bool) -> None:
    user = client.register()
    request = session_pb2.LoginRequest(
        login=user.email if known else "nobody@example.org", password="wrong password", context=BROWSER
    )
    with suppress(grpc.RpcError):
        client.sessions.Login(request)
    (event,) = _events(client, page_size=1)
    assert (event.action, event.outcome, event.client_ip) == ("session.login", "refused", BROWSER.client_ip)
    assert event.user_id == (user.id if known else "")


def test_a_refused_token_leaves_an_event(client: Client) -> None:
    with suppress(grpc.RpcError):
        Links(client).log_in("v4.public.x.y")
    (event,) = _events(client, page_size=1)
    assert (event.action, event.outcome) == ("session.login", "refused")


def test_calls_that_are_refused_at_the_door_leave_one_event_a_minute(flowless: Flowless, client: Client) -> None:
    bridge_id, secret = client.create_bridge(Scope.VALIDATE)
    powerless, nobody = Client(client.channel, secret), Client(client.channel, "brdg_nonsense")
    before = _events(client, page_size=1)[0].sequence
    for _ in range(5):
        assert outcome(powerless.new_session) == ("PERMISSION_DENIED", "SCOPE_MISSING")
        assert outcome(nobody.new_session) == ("UNAUTHENTICATED", "BRIDGE_CREDENTIAL_REFUSED")
    events = [event for event in _events(client, page_size=10) if event.sequence > before]
    assert {(event.action, event.actor, event.details["reason"]) for event in events} == {
        ("call.refused", f"bridge:{bridge_id}", "SCOPE_MISSING"),
        ("call.refused", "unknown", "BRIDGE_CREDENTIAL_REFUSED"),
    }
    assert len(events) == 2
    assert flowless.log_text.count("call refused") >= 2
    assert "nonsense" not in flowless.log_text


def test_the_request_id_of_an_event_is_that_of_the_call(client: Client) -> None:
    request = identity_pb2.RegisterUserRequest(email="request-id@example.org", password=PASSWORD)
    client.identity.RegisterUser(request, metadata=(("x-request-id", "my-request-1"),))
    assert _events(client, page_size=1)[0].request_id == "my-request-1"


def test_a_secret_that_comes_as_a_request_id_is_not_kept(client: Client) -> None:
    session_id = client.new_session().session_id
    request = identity_pb2.RegisterUserRequest(email="request-secret@example.org", password=PASSWORD)
    client.identity.RegisterUser(request, metadata=(("x-request-id", session_id),))
    assert _events(client, page_size=1)[0].request_id != session_id


def test_events_of_one_user_are_listed_a_page_at_a_time(client: Client) -> None:
    user = client.register()
    for _ in range(4):
        client.log_in(user)
    client.register()
    request = admin_pb2.ListAuditEventsRequest(page_size=2, user_id=user.id)
    sequences: list[int] = []
    while True:
        page = client.admin.ListAuditEvents(request)
        sequences += [event.sequence for event in page.events]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert len(sequences) == 5
    assert sequences == sorted(sequences, reverse=True)
    for bad in ({"page_size": 501}, {"user_id": "x"}, {"page_token": "x"}, {"page_token": "eA=="}):
        failure = failure_of(
            lambda bad=bad: client.admin.ListAuditEvents(admin_pb2.ListAuditEventsRequest(**bad))  # type: ignore[misc]
        )
        assert violated_fields(failure) == [next(iter(bad))]


def test_a_deleted_users_trail_stays_and_names_nothing_personal(flowless: Flowless, client: Client) -> None:
    user = client.register("erased-person@example.org", name="Erased Person", phone="+44 20 7946 0000")
    client.log_in(user, device_name="Erased device")
    client.identity.DeleteUser(identity_pb2.DeleteUserRequest(user_id=user.id))
    assert {event.action for event in _events(client, user_id=user.id)} == {
        "user.register",
        "session.login",
        "user.delete",
    }
    for table in ("users", "sessions", "trust_tokens", "audit_events"):
        with flowless.sql() as connection:
            rows = str(connection.execute(f"SELECT * FROM {table}").fetchall())
        # Long enough not to stand in a hash or a number by chance.
        for personal in ("erased-person", "Erased", "79460000", "7946 0000"):
            assert personal not in rows, table


def _command(flowless: Flowless, *arguments: str) -> subprocess.CompletedProcess[str]:
    return flowless.process.try_command(*arguments)


def test_no_secret_gets_into_the_log_or_its_export(flowless: Flowless, client: Client) -> None:
    links = Links(client)
    user = client.register("sentinel@example.org", user_name="sentinel.name")
    login = client.log_in(user)
    rotated = client.sessions.RotateSession(session_pb2.RotateSessionRequest(session_id=login.session_id))
    token = links.issue("magic_link", user.email)
    links.log_in(token)
    bridge_id, secret = client.create_bridge(Scope.VALIDATE)
    for password in ("sentinel wrong password", PASSWORD):
        with suppress(grpc.RpcError):
            client.sessions.Login(session_pb2.LoginRequest(login="sentinel.name", password=password, context=BROWSER))
    with suppress(grpc.RpcError):
        client.sessions.Login(session_pb2.LoginRequest(login="sentinel-nobody", password="x", context=BROWSER))
    exported = _command(flowless, "audit", "export").stdout + _command(flowless, "audit", "export", "--csv").stdout
    with flowless.sql() as connection:
        table = str(connection.execute("SELECT * FROM audit_events").fetchall())
    secrets = [login.session_id, rotated.session_id, token, secret, PASSWORD, "sentinel"]
    secrets += [part for part in token.split(".") if len(part) > 30]
    for text in (exported, table, str(_events(client)), flowless.log_text):
        assert bridge_id in text or text == flowless.log_text
        assert [each for each in secrets if each in text] == []


def test_the_commands_show_export_and_verify(flowless: Flowless, client: Client) -> None:
    user = client.register()
    client.log_in(user)
    tail = json.loads(_command(flowless, "audit", "tail", "--json", "--user", user.id).stdout)
    assert [row["action"] for row in tail] == ["user.register", "session.login"]
    exported = [json.loads(line) for line in _command(flowless, "audit", "export").stdout.splitlines()]
    assert [row["sequence"] for row in exported] == list(range(1, len(exported) + 1))
    verified = json.loads(_command(flowless, "audit", "verify", "--json").stdout)
    assert verified == {"checked": len(exported), "end": f"{len(exported)}:{exported[-1]['hash']}"}
    assert _command(flowless, "audit", "verify", "--expect", verified["end"]).returncode == 0
    wrong = f"{len(exported)}:{'0' * 64}"
    assert _command(flowless, "audit", "verify", "--expect", wrong).returncode == 1
    assert _command(flowless, "audit", "verify", "--expect", "x").returncode == 1
    assert "session.login" in _command(flowless, "audit", "tail").stdout


def test_verify_finds_what_somebody_altered(run_dir: Any) -> None:
    with running_flowless(run_dir) as flowless:
        for _ in range(3):
            flowless.client.new_session()
        with flowless.sql() as connection:
            connection.execute("UPDATE audit_events SET actor = 'operator' WHERE sequence = 3")
        found = _command(flowless, "audit", "verify")
        assert found.returncode == 1
        assert "event 3" in found.stderr
