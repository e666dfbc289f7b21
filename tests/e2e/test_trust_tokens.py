"""Trust tokens through a real Flowless: what each purpose does, and how keys rotate under it."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2, struct_pb2

from tests.support.flowless import (
    BROWSER,
    PASSWORD,
    Client,
    Flowless,
    failure_of,
    fresh_email,
    outcome,
    running_flowless,
    violated_fields,
)
from tests.support.links import NEW_PASSWORD, REFUSED, Links
from tools.processes import temporary_directory
from trustlayer.v1 import admin_pb2, identity_pb2, session_pb2, trust_token_pb2, types_pb2


@pytest.fixture(scope="module")
def flowless() -> Iterator[Flowless]:
    with (
        temporary_directory() as directory,
        running_flowless(directory, trust_token_purposes='["device_pairing"]') as running,
    ):
        yield running


@pytest.fixture(scope="module")
def client(flowless: Flowless) -> Client:
    return flowless.client


@pytest.fixture(scope="module")
def links(client: Client) -> Links:
    return Links(client)


def test_a_verified_address_shows_in_the_users_sessions(client: Client, links: Links) -> None:
    user = client.register()
    login = client.log_in(user)
    assert not login.session.user.email_verified
    token = links.issue("email_verify", user.id)
    assert links.check(token, "email_verify").email == user.email
    consumed = links.consume(token, "email_verify")
    assert (consumed.user_id, consumed.email) == (user.id, user.email)
    answer = client.validate(login.session_id, min_revision=consumed.revision)
    assert answer.active.session.user.email_verified
    assert outcome(lambda: links.consume(token, "email_verify")) == REFUSED
    assert outcome(lambda: links.check(token, "email_verify")) == REFUSED


def test_a_magic_link_logs_in_and_proves_the_address(client: Client, links: Links) -> None:
    user = client.register()
    login = links.log_in(links.issue("magic_link", user.email.upper()))
    assert (login.session.user.id, login.session.user.email_verified) == (user.id, True)
    assert list(login.session.authentication_methods) == ["magic_link"]
    assert client.denial(login.session_id) == ""


def test_a_user_without_a_password_logs_in_by_link_only(client: Client, links: Links) -> None:
    user = client.identity.RegisterUser(identity_pb2.RegisterUserRequest(email=fresh_email())).user
    for password in ("x", PASSWORD):
        request = session_pb2.LoginRequest(login=user.email, password=password, context=BROWSER)
        assert outcome(lambda request=request: client.sessions.Login(request))[1] == "LOGIN_REFUSED"  # type: ignore[misc]
    assert links.log_in(links.issue("magic_link", user.id)).session.user.id == user.id
    links.reset(links.issue("password_reset", user.email), PASSWORD)
    client.log_in(user)


def test_a_reset_replaces_the_password_and_ends_every_session(client: Client, links: Links) -> None:
    user = client.register()
    sessions = [client.log_in(user) for _ in range(2)]
    answer = links.reset(links.issue("password_reset", user.email))
    assert answer.user_id == user.id
    assert {client.denial(each.session_id, min_revision=answer.revision) for each in sessions} == {"REVOKED"}
    assert outcome(lambda: client.log_in(user))[1] == "LOGIN_REFUSED"
    request = session_pb2.LoginRequest(login=user.email, password=NEW_PASSWORD, context=BROWSER)
    client.sessions.Login(request)


def test_a_password_that_is_refused_does_not_spend_the_token(client: Client, links: Links) -> None:
    user = client.register()
    token = links.issue("password_reset", user.email)
    assert violated_fields(failure_of(lambda: links.reset(token, "short"))) == ["new_password"]
    links.reset(token)


def test_an_invitation_makes_the_user_whom_the_inviter_described(client: Client, links: Links) -> None:
    data = struct_pb2.Struct()
    data.update({"roles": ["editor", "admin"], "user_type": "staff"})
    email = fresh_email()
    token = links.issue("invitation", email, data=data, lifetime=duration_pb2.Duration(seconds=30 * 86_400))
    user = links.accept(token, name="Ada", user_name="ada.invited")
    assert (user.email, user.email_verified, user.user_type, list(user.roles), user.name) == (
        email,
        True,
        "staff",
        ["admin", "editor"],
        "Ada",
    )
    client.log_in(user)
    assert outcome(lambda: links.accept(token)) == REFUSED


def test_an_invitation_of_somebody_who_has_come_meanwhile_is_refused(client: Client, links: Links) -> None:
    email = fresh_email()
    token = links.issue("invitation", email)
    client.register(email)
    assert outcome(lambda: links.accept(token)) == ("ALREADY_EXISTS", "EMAIL_TAKEN")


def test_an_address_is_changed_when_the_new_one_is_proven(client: Client, links: Links) -> None:
    user = client.register()
    login = client.log_in(user)
    new = fresh_email()
    assert outcome(lambda: links.change_email(user, new, "wrong password")) == ("UNAUTHENTICATED", "LOGIN_REFUSED")
    token = links.change_email(user, new)
    changed = links.confirm_email(token)
    assert (changed.user.email, changed.user.email_verified) == (new, True)
    answer = client.validate(login.session_id, min_revision=changed.revision)
    assert answer.active.session.user.email == new
    assert outcome(lambda: client.log_in(user))[1] == "LOGIN_REFUSED"
    client.log_in(changed.user)


def test_a_deployments_own_purpose_carries_its_data(client: Client, links: Links) -> None:
    user = client.register()
    data = struct_pb2.Struct()
    data.update({"device": "tv", "depth": {"list": [1, None, True]}})
    token = links.issue("device_pairing", user.id, data=data)
    assert links.consume(token, "device_pairing").data == data
    nobody = links.issue("device_pairing", "nobody@example.org")
    assert links.consume(nobody, "device_pairing").user_id == ""


def test_what_one_rpc_redeems_no_other_does(client: Client, links: Links) -> None:
    user = client.register()
    for purpose in ("magic_link", "password_reset"):
        token = links.issue(purpose, user.id)
        assert violated_fields(failure_of(lambda: links.consume(token, purpose))) == ["purpose"]  # noqa: B023
        assert links.check(token, purpose).email == user.email


def test_revoked_tokens_redeem_nothing(client: Client, links: Links) -> None:
    user = client.register()
    token = links.issue("magic_link", user.id)
    kept = links.issue("password_reset", user.id)
    for _ in range(2):
        client.tokens.RevokeTrustTokens(
            trust_token_pb2.RevokeTrustTokensRequest(subject=user.email, purpose="magic_link")
        )
    assert outcome(lambda: links.log_in(token)) == REFUSED
    links.reset(kept)


INVALID: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a purpose that nobody knows": ({"purpose": "x_y"}, ["purpose"]),
    "a purpose that has an RPC of its own": ({"purpose": "email_change"}, ["purpose"]),
    "no subject": ({"subject": ""}, ["subject"]),
    "a subject that is none": ({"subject": "usr_x"}, ["subject"]),
    "an invitation of a user id": ({"purpose": "invitation", "subject": "usr_" + "0" * 22}, ["subject"]),
    "no audience": ({"audience": ""}, ["audience"]),
    "no lifetime": ({"lifetime": duration_pb2.Duration()}, ["lifetime"]),
    "too long a life": ({"lifetime": duration_pb2.Duration(seconds=86_401)}, ["lifetime"]),
    "a delivery that nobody knows": ({"delivery": 99}, ["delivery"]),
    "an address that is none": ({"context": types_pb2.RequestContext(client_ip="x")}, ["context.client_ip"]),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_cannot_be_issued_says_why(links: Links, name: str) -> None:
    changes, fields = INVALID[name]
    request = {"purpose": "magic_link", "subject": "nobody@example.org", **changes}
    assert violated_fields(failure_of(lambda: links.issued(**request))) == fields


def test_data_that_is_too_much_is_refused(links: Links) -> None:
    data = struct_pb2.Struct()
    data.update({"x": "y" * 1_024})
    assert violated_fields(failure_of(lambda: links.issue("magic_link", "a@example.org", data=data))) == ["data"]
    data = struct_pb2.Struct()
    data.update({"roles": "admin", "user_type": 7})
    failure = failure_of(lambda: links.issue("invitation", "a@example.org", data=data))
    assert set(violated_fields(failure)) == {"data"}


def test_mail_is_refused_where_no_mail_server_is_configured(links: Links) -> None:
    call = outcome(
        lambda: links.issued("magic_link", "nobody@example.org", delivery=trust_token_pb2.TRUST_TOKEN_DELIVERY_MAIL)
    )
    assert call == ("FAILED_PRECONDITION", "MAIL_NOT_CONFIGURED")


# --- keys -------------------------------------------------------------------------------------------------------


def _keys(client: Client) -> list[admin_pb2.SigningKey]:
    return list(client.admin.ListSigningKeys(admin_pb2.ListSigningKeysRequest()).keys)


def _rotate(client: Client, *, seconds: int) -> str:
    overlap = duration_pb2.Duration(seconds=seconds)
    return client.admin.RotateSigningKey(admin_pb2.RotateSigningKeyRequest(overlap=overlap)).key_id


def test_a_token_outlives_the_rotation_of_its_key_and_not_its_destruction(client: Client, links: Links) -> None:
    first, second = client.register(), client.register()
    old = [links.issue("magic_link", user.id) for user in (first, second)]
    before = {key.key_id for key in _keys(client) if key.state == admin_pb2.SIGNING_KEY_STATE_NEXT}
    (active,) = [key.key_id for key in _keys(client) if key.state == admin_pb2.SIGNING_KEY_STATE_ACTIVE]
    published = set(client.tokens.GetPublicKeys(trust_token_pb2.GetPublicKeysRequest()).keys)
    assert _rotate(client, seconds=3_600) in before
    # Who verifies offline knew the key that signs now before it did.
    (signs,) = [key.public_key for key in _keys(client) if key.state == admin_pb2.SIGNING_KEY_STATE_ACTIVE]
    assert signs in published
    links.log_in(old[0])
    links.log_in(links.issue("magic_link", first.id))
    client.admin.DestroySigningKey(admin_pb2.DestroySigningKeyRequest(key_id=active))
    assert outcome(lambda: links.log_in(old[1])) == REFUSED
    assert active in {key.key_id for key in _keys(client) if key.state == admin_pb2.SIGNING_KEY_STATE_DESTROYED}


def test_keys_that_are_in_use_or_unknown_are_not_destroyed(client: Client) -> None:
    states = (admin_pb2.SIGNING_KEY_STATE_ACTIVE, admin_pb2.SIGNING_KEY_STATE_NEXT)
    for key in _keys(client):
        if key.state in states:
            request = admin_pb2.DestroySigningKeyRequest(key_id=key.key_id)
            refused = outcome(lambda request=request: client.admin.DestroySigningKey(request))  # type: ignore[misc]
            assert refused == ("FAILED_PRECONDITION", "SIGNING_KEY_IN_USE")
    for key_id, expected in (("k4.pid.x", "SIGNING_KEY_NOT_FOUND"), ("", "INVALID_FIELD")):
        request = admin_pb2.DestroySigningKeyRequest(key_id=key_id)
        assert outcome(lambda request=request: client.admin.DestroySigningKey(request))[1] == expected  # type: ignore[misc]


def test_public_keys_verify_tokens_without_flowless(client: Client, links: Links) -> None:
    import pyseto

    token = links.issue("magic_link", client.register().id)
    keys = [
        pyseto.Key.from_paserk(text)
        for text in client.tokens.GetPublicKeys(trust_token_pb2.GetPublicKeysRequest()).keys
    ]
    implicit = b'{"audience":"shop","purpose":"magic_link","use":"trustlayer.v1 trust token"}'
    payload = pyseto.decode(keys, token, implicit_assertion=implicit).payload
    assert isinstance(payload, bytes)
    assert b'"jti"' in payload


def test_without_a_key_file_tokens_are_refused_and_everything_else_works() -> None:
    with temporary_directory() as directory, running_flowless(directory) as running:
        running.process.stop()
        running.process.environment.pop("FLOWLESS_SIGNING_KEY_FILE")
        running.process.start()
        with grpc.insecure_channel(running.process.address) as channel:
            client = Client(channel, running.client.secret)
            links = Links(client)
            user = client.register()
            expected = ("FAILED_PRECONDITION", "SIGNING_NOT_CONFIGURED")
            assert outcome(lambda: links.issue("magic_link", user.id)) == expected
            assert outcome(lambda: links.issue("magic_link", "nobody@example.org")) == expected
            assert outcome(lambda: _rotate(client, seconds=0)) == expected
            assert len(_keys(client)) == 2
            client.log_in(user)


def test_a_check_names_the_end_of_the_token(client: Client, links: Links) -> None:
    issued = links.issued("email_verify", client.register().id)
    assert links.check(issued.token, "email_verify").expire_time == issued.expire_time
