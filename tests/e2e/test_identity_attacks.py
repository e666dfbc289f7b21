"""Attacks on identities, one test each, named after what the attacker tries. Real processes throughout."""

import base64
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import jwt
import nacl.signing
import pyseto
import pytest
from google.protobuf import duration_pb2, field_mask_pb2

from flowless.adapters.paseto import decoded, encoded
from flowless.domain.bridges import Scope
from tests.support.flowless import BROWSER, Client, Flowless, outcome, running_flowless
from tests.support.links import NEW_PASSWORD, REFUSED, Links
from tests.support.processes import children
from tests.support.replicas import deployment
from tests.support.system import BROWSER as BOUND
from tests.support.system import System, running_system
from tools.processes import temporary_directory
from trustlayer.v1 import admin_pb2, identity_pb2, session_pb2, trust_token_pb2, types_pb2, validator_pb2

pytestmark = pytest.mark.long

SECRET_PURPOSES = ("magic_link", "password_reset", "email_verify", "invitation", "email_change")


@pytest.fixture(scope="module")
def flowless() -> Iterator[Flowless]:
    with temporary_directory() as directory, running_flowless(directory) as running:
        yield running


@pytest.fixture(scope="module")
def client(flowless: Flowless) -> Client:
    return flowless.client


@pytest.fixture(scope="module")
def links(client: Client) -> Links:
    return Links(client)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with temporary_directory() as directory, running_system(directory) as running:
        yield running


# --- sessions ---------------------------------------------------------------------------------------------------


def test_theft_of_the_session_id_gives_nothing_from_another_address_or_device(system: System) -> None:
    """What a stolen id gives: requests from the same address in STANDARD mode. What it does not: anything else."""
    system.app.register("theft@example.org")
    session_id = system.app.log_in("theft@example.org").session_id

    def answer(mode: str, context: types_pb2.RequestContext) -> str:
        request = validator_pb2.ValidateRequest(
            session_id=session_id, mode=types_pb2.ValidationMode.Value(f"VALIDATION_MODE_{mode}"), context=context
        )
        found = system.app.validator.Validate(request, timeout=20)
        return "ACTIVE" if found.HasField("session") else types_pb2.DenialReason.Name(found.denial.reason)[14:]

    thief_elsewhere = types_pb2.RequestContext(client_ip="198.51.100.9")
    thief_behind_the_same_address = types_pb2.RequestContext(
        client_ip=BOUND.client_ip, device_fingerprint="thief", user_agent=BOUND.user_agent
    )
    for _ in range(2):  # from the database, then from the sidecar's memory
        assert answer("STANDARD", thief_elsewhere) == "IP_MISMATCH"
        assert answer("STANDARD", types_pb2.RequestContext()) == "CONTEXT_MISSING"
        assert answer("STANDARD", thief_behind_the_same_address) == "ACTIVE"
        assert answer("ADVANCED", thief_behind_the_same_address) == "DEVICE_MISMATCH"
        assert answer("STRICT", BOUND) == "ACTIVE"


def test_hijack_from_another_ip_or_device_is_seen_by_the_modes_that_check_it(client: Client) -> None:
    login = client.log_in(client.register())
    bound = {"client_ip": "203.0.113.7", "device_fingerprint": "device", "user_agent": "agent"}

    def denial(mode: str, **changes: str) -> str:
        context = types_pb2.RequestContext(**{**bound, **changes})
        number = types_pb2.ValidationMode.Value(f"VALIDATION_MODE_{mode}")
        return client.denial(login.session_id, mode=number, context=context)

    for mode in ("STANDARD", "ADVANCED", "STRICT"):
        assert denial(mode) == ""
        assert denial(mode, client_ip="198.51.100.9") == "IP_MISMATCH"
    assert denial("STANDARD", device_fingerprint="other") == ""
    assert denial("ADVANCED", device_fingerprint="other") == "DEVICE_MISMATCH"
    assert denial("ADVANCED", user_agent="other") == ""
    assert denial("STRICT", user_agent="other") == "USER_AGENT_MISMATCH"


def test_fixation_gets_nothing_since_every_proof_gives_a_new_id(client: Client, links: Links) -> None:
    """An id that the attacker knew before the user logged in, or rose in privilege, is worth nothing afterwards."""
    user = client.register()
    links.consume(links.issue("email_verify", user.id), "email_verify")
    known = client.log_in(user).session_id
    again = client.sessions.Reauthenticate(
        session_pb2.ReauthenticateRequest(session_id=known, password="correct horse battery staple", context=BROWSER)
    )
    rotated = client.sessions.RotateSession(session_pb2.RotateSessionRequest(session_id=again.session_id))
    changed = client.identity.ChangePassword(
        identity_pb2.ChangePasswordRequest(
            user_id=user.id,
            current_password="correct horse battery staple",
            new_password=NEW_PASSWORD,
            session_id=rotated.session_id,
            context=BROWSER,
        )
    )
    linked = links.log_in(links.issue("magic_link", user.id))
    ids = [known, again.session_id, rotated.session_id, changed.session_id, linked.session_id]
    assert len(set(ids)) == len(ids)
    assert [client.denial(each) for each in ids] == ["UNKNOWN", "UNKNOWN", "UNKNOWN", "", ""]


def test_an_attacker_cannot_choose_a_session_id(client: Client) -> None:
    names = {
        field.name
        for message in (session_pb2.LoginRequest, session_pb2.LoginWithTrustTokenRequest)
        for field in message.DESCRIPTOR.fields
    }
    assert not any("session" in name for name in names)


def test_role_downgrade_while_cached_is_seen_at_once(system: System) -> None:
    user = system.app.register("downgrade@example.org", roles=("admin",))
    session_id = system.app.log_in("downgrade@example.org").session_id
    for _ in range(3):
        assert list(system.app.validate(session_id).session.user.roles) == ["admin"]
    assert system.app.validate(session_id).freshness.tier == types_pb2.TIER_LRU
    revision = system.app.identity.UpdateUser(
        identity_pb2.UpdateUserRequest(user_id=user.id, update_mask=field_mask_pb2.FieldMask(paths=["roles"]))
    ).revision
    answer = system.app.validate(session_id, min_revision=revision)
    assert list(answer.session.user.roles) == []
    assert answer.session.rotation_due


# --- trust tokens -----------------------------------------------------------------------------------------------


def test_replayed_magic_link_logs_in_once(client: Client, links: Links) -> None:
    token = links.issue("magic_link", client.register().id)
    first = links.log_in(token)
    for _ in range(3):
        assert outcome(lambda: links.log_in(token)) == REFUSED
    assert client.denial(first.session_id) == ""


def test_forwarded_magic_link_after_use_gives_the_second_person_nothing(client: Client, links: Links) -> None:
    token = links.issue("magic_link", client.register().id)
    links.log_in(token)
    elsewhere = types_pb2.RequestContext(client_ip="198.51.100.9", device_fingerprint="other", user_agent="other")
    assert outcome(lambda: links.log_in(token, context=elsewhere)) == REFUSED


def _redeem_as(links: Links, purpose: str, token: str) -> Any:
    redeem = {
        "magic_link": lambda: links.log_in(token),
        "password_reset": lambda: links.reset(token),
        "invitation": lambda: links.accept(token),
        "email_change": lambda: links.confirm_email(token),
        "email_verify": lambda: links.consume(token, "email_verify"),
    }
    return redeem[purpose]


@pytest.mark.parametrize("purpose", SECRET_PURPOSES)
def test_token_of_one_purpose_used_for_another_is_refused(client: Client, links: Links, purpose: str) -> None:
    user = client.register()
    token = (
        links.change_email(user, f"new-{user.email}")
        if purpose == "email_change"
        else links.issue(purpose, f"invited-{user.email}" if purpose == "invitation" else user.id)
    )
    for other in SECRET_PURPOSES:
        if other != purpose:
            assert outcome(_redeem_as(links, other, token)) == REFUSED
    assert outcome(_redeem_as(links, purpose, token)) == ("OK", "")


def test_token_for_one_audience_used_by_another_is_refused(client: Client, links: Links) -> None:
    token = links.issue("magic_link", client.register().id)
    for audience in ("blog", "SHOP", "shop ", "sho"):
        assert outcome(lambda audience=audience: links.log_in(token, audience=audience)) == REFUSED  # type: ignore[misc]
    links.log_in(token)


def test_token_signed_with_a_retired_key_is_refused_when_its_overlap_is_over(client: Client, links: Links) -> None:
    token = links.issue("magic_link", client.register().id)
    request = admin_pb2.RotateSigningKeyRequest(overlap=duration_pb2.Duration(seconds=0))
    client.admin.RotateSigningKey(request)
    assert outcome(lambda: links.log_in(token)) == REFUSED


def _parts(token: str) -> tuple[bytes, bytes, bytes]:
    """Claims, signature, footer."""
    _, _, message, footer = token.split(".")
    body, tail = decoded(message), decoded(footer)
    assert body is not None
    assert tail is not None
    return body[:-64], body[-64:], tail


def _pae(*pieces: bytes) -> bytes:
    sizes = [len(pieces), *(len(piece) for piece in pieces)]
    first, *rest = (size.to_bytes(8, "little") for size in sizes)
    return first + b"".join(size + piece for size, piece in zip(rest, pieces, strict=True))


def test_token_signed_with_a_foreign_key_is_refused_even_under_our_keys_name(client: Client, links: Links) -> None:
    claims, _, footer = _parts(links.issue("magic_link", client.register().id))
    implicit = b'{"audience":"shop","purpose":"magic_link","use":"trustlayer.v1 trust token"}'
    foreign = nacl.signing.SigningKey.generate()
    signature = foreign.sign(_pae(b"v4.public.", claims, footer, implicit)).signature
    token = f"v4.public.{encoded(claims + signature)}.{encoded(footer)}"
    assert outcome(lambda: links.log_in(token)) == REFUSED
    named = json.dumps({"kid": pyseto.Key.new(4, "public", _pem(foreign)).to_peer_paserk_id()}).replace(" ", "")
    signature = foreign.sign(_pae(b"v4.public.", claims, named.encode(), implicit)).signature
    token = f"v4.public.{encoded(claims + signature)}.{encoded(named.encode())}"
    assert outcome(lambda: links.log_in(token)) == REFUSED


def _pem(key: nacl.signing.SigningKey) -> bytes:
    der = bytes.fromhex("302e020100300506032b657004220420") + bytes(key)
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(der) + b"\n-----END PRIVATE KEY-----\n"


def _confused(client: Client, token: str) -> dict[str, str]:
    """Tokens that say something else of how they are protected, made with what the attacker has: public keys."""
    claims, _, footer = _parts(token)
    (active, *_) = client.tokens.GetPublicKeys(trust_token_pb2.GetPublicKeysRequest()).keys
    public = decoded(active.removeprefix("k4.public."))
    assert public is not None
    payload = json.loads(claims)
    implicit = b'{"audience":"shop","purpose":"magic_link","use":"trustlayer.v1 trust token"}'
    local4 = pyseto.Key.new(4, "local", public)
    local2 = pyseto.Key.new(2, "local", public)
    foreign = nacl.signing.SigningKey.generate()
    none = encoded(b'{"alg":"none","typ":"JWT"}') + "." + encoded(claims) + "."
    return {
        "v4.local under the public key": pyseto.encode(
            local4, claims, footer=footer, implicit_assertion=implicit
        ).decode(),
        "v2.local under the public key": pyseto.encode(local2, claims, footer=footer).decode(),
        "v2.public": token.replace("v4.public", "v2.public"),
        "v3.public": token.replace("v4.public", "v3.public"),
        "v4.local by name": token.replace("v4.public", "v4.local"),
        "JWT HS256 under the public key": jwt.encode(payload, public, algorithm="HS256"),
        "JWT HS256 under the public key's text": jwt.encode(payload, active, algorithm="HS256"),
        "JWT EdDSA of a foreign key": jwt.encode(payload, _pem(foreign), algorithm="EdDSA"),
        "JWT none": none,
        "no signature": f"v4.public.{encoded(claims)}.{encoded(footer)}",
        "an empty signature": f"v4.public.{encoded(claims + bytes(64))}.{encoded(footer)}",
    }


def test_alg_confusion_style_tokens_are_refused(client: Client, links: Links) -> None:
    token = links.issue("magic_link", client.register().id)
    answers = {
        name: outcome(lambda confused=confused: links.log_in(confused))  # type: ignore[misc]
        for name, confused in _confused(client, token).items()
    }
    assert answers == dict.fromkeys(answers, REFUSED)
    links.log_in(token)


def test_another_spelling_of_a_spent_token_redeems_nothing(client: Client, links: Links) -> None:
    token = links.issue("magic_link", client.register().id)
    _, _, message, footer = token.split(".")
    spellings = [
        f"{token}=",
        f"v4.public.{message}==.{footer}",
        f"v4.public.{message}.{footer}.",
        f" {token}",
        f"{token}\n",
        token.replace("v4.public", "V4.public"),
        *(f"{token[:-1]}{character}" for character in "ABCDEFGHabcdefgh0123" if character != token[-1]),
    ]
    for spelling in spellings:
        assert outcome(lambda spelling=spelling: links.log_in(spelling)) == REFUSED  # type: ignore[misc]
    links.log_in(token)
    for spelling in (token, *spellings):
        assert outcome(lambda spelling=spelling: links.log_in(spelling)) == REFUSED  # type: ignore[misc]


def test_reset_link_after_password_change_is_void(client: Client, links: Links) -> None:
    user = client.register()
    tokens = [links.issue(purpose, user.id) for purpose in ("password_reset", "magic_link", "email_verify")]
    client.identity.ChangePassword(
        identity_pb2.ChangePasswordRequest(
            user_id=user.id,
            current_password="correct horse battery staple",
            new_password=NEW_PASSWORD,
            context=BROWSER,
        )
    )
    redeem = zip(("password_reset", "magic_link", "email_verify"), tokens, strict=True)
    assert {outcome(_redeem_as(links, purpose, token)) for purpose, token in redeem} == {REFUSED}


def test_reset_link_after_a_newer_one_is_void(client: Client, links: Links) -> None:
    user = client.register()
    older = links.issue("password_reset", user.id)
    newer = links.issue("password_reset", user.email)
    assert outcome(lambda: links.reset(older)) == REFUSED
    links.reset(newer)


def test_reset_link_of_the_old_address_is_void_after_the_address_changed(client: Client, links: Links) -> None:
    user = client.register()
    old = links.issue("password_reset", user.email)
    links.confirm_email(links.change_email(user, f"moved-{user.email}"))
    assert outcome(lambda: links.reset(old)) == REFUSED


def test_a_disabled_user_redeems_nothing(client: Client, links: Links) -> None:
    user = client.register()
    token = links.issue("magic_link", user.id)
    client.identity.DisableUser(identity_pb2.DisableUserRequest(user_id=user.id))
    assert outcome(lambda: links.log_in(token)) == REFUSED
    after = links.issue("magic_link", user.id)
    client.identity.EnableUser(identity_pb2.EnableUserRequest(user_id=user.id))
    for each in (token, after):
        assert outcome(lambda each=each: links.log_in(each)) == REFUSED  # type: ignore[misc]


def _shape(issued: trust_token_pb2.IssueTrustTokenResponse) -> Any:
    claims, _, footer = _parts(issued.token)
    return {key: len(value) for key, value in json.loads(claims).items() if key != "sub"}, footer


@pytest.mark.parametrize("purpose", ["password_reset", "magic_link", "email_verify"])
def test_user_enumeration_by_issuing_for_unknown_addresses_sees_success(
    client: Client, links: Links, purpose: str
) -> None:
    known, disabled = client.register(), client.register()
    client.identity.DisableUser(identity_pb2.DisableUserRequest(user_id=disabled.id))
    subjects = (known.email, disabled.email, "nobody@example.org", "usr_" + "0" * 22)
    issued = [links.issued(purpose, subject) for subject in subjects]
    assert len({str(_shape(each)) for each in issued}) == 1
    for each in issued[1:]:
        assert outcome(_redeem_as(links, purpose, each.token)) == REFUSED


def test_an_account_that_was_registered_by_somebody_else_is_its_owners_at_the_first_proof(
    client: Client, links: Links
) -> None:
    """The attacker registers the owner's address, logs in, starts a change to their own address, and waits."""
    victim = client.register()
    attackers = client.log_in(victim)
    pending = links.change_email(victim, f"evil-{victim.email}")
    owners = links.log_in(links.issue("magic_link", victim.email))
    assert client.denial(owners.session_id) == ""
    assert client.denial(attackers.session_id) == "REVOKED"
    assert outcome(lambda: client.log_in(victim))[1] == "LOGIN_REFUSED"
    assert outcome(lambda: links.confirm_email(pending)) == REFUSED


def test_a_look_alike_domain_gets_nobodys_token(client: Client, links: Links) -> None:
    victim = client.register("victim@fass.example")
    token = links.issue("password_reset", "victim@fa\u00df.example")
    assert outcome(lambda: links.reset(token)) == REFUSED
    client.log_in(victim)


def test_what_was_proven_with_the_old_password_does_not_outlive_its_change(client: Client, links: Links) -> None:
    """Requests in flight with the old password, while the user changes it: the address is never taken over."""
    for _ in range(3):
        user = client.register()
        with ThreadPoolExecutor(max_workers=6) as pool:
            tries = [pool.submit(links.change_email, user, f"evil-{user.email}") for _ in range(5)]
            change = identity_pb2.ChangePasswordRequest(
                user_id=user.id,
                current_password="correct horse battery staple",
                new_password=NEW_PASSWORD,
                context=BROWSER,
            )
            client.identity.ChangePassword(change)
        for each in tries:
            if each.exception() is None:
                assert outcome(lambda each=each: links.confirm_email(each.result())) == REFUSED  # type: ignore[misc]


def test_a_revoked_bridges_links_are_worth_nothing(client: Client, links: Links) -> None:
    bridge_id, secret = client.create_bridge(Scope.TRUST_TOKENS)
    rogue = Links(Client(client.channel, secret))
    tokens = [rogue.issue("magic_link", client.register().id), rogue.issue("invitation", "rogue@example.org")]
    client.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=bridge_id))
    assert outcome(lambda: links.log_in(tokens[0])) == REFUSED
    assert outcome(lambda: links.accept(tokens[1])) == REFUSED


def test_a_key_that_is_retired_at_once_makes_no_token_that_is_void_from_birth(flowless: Flowless) -> None:
    client, links = flowless.client, Links(flowless.client)
    links.issue("magic_link", client.register().id)
    flowless.process.run_command("keys", "rotate", "--overlap-days", "0")
    for _ in range(5):
        links.log_in(links.issue("magic_link", client.register().id))


def test_user_enumeration_by_changing_to_an_address_that_is_taken_sees_success(client: Client, links: Links) -> None:
    user, other = client.register(), client.register()
    token = links.change_email(user, other.email)
    assert outcome(lambda: links.confirm_email(token)) == REFUSED


def test_a_token_says_nothing_of_the_address_in_clear(client: Client, links: Links) -> None:
    user = client.register()
    claims, _, footer = _parts(links.issue("magic_link", user.id))
    for text in (claims, footer):
        assert user.email.encode() not in text


@pytest.mark.timeout(120)
def test_of_a_hundred_redeemers_on_two_replicas_exactly_one_wins(run_dir: Path) -> None:
    # A hundred wait for one row; how long that takes is not the question here.
    patient = {"FLOWLESS_BUSY_TIMEOUT_SECONDS": "30"}
    with deployment(run_dir, environment=patient) as deployed, ExitStack() as stack:
        deployed.replicas[0].create_signing_keys()
        everyone = [
            Links(Client(stack.enter_context(grpc.insecure_channel(replica.address)), deployed.secret))
            for replica in deployed.replicas
        ]
        user = everyone[0].client.register()
        for purpose in ("magic_link", "password_reset", "email_verify"):
            token = everyone[0].issue(purpose, user.id)
            with ThreadPoolExecutor(max_workers=100) as pool:
                calls = [_redeem_as(everyone[number % 2], purpose, token) for number in range(100)]
                answers = list(pool.map(outcome, calls))
            assert answers.count(("OK", "")) == 1, purpose
            assert set(answers) == {("OK", ""), REFUSED}, purpose


# --- passwords --------------------------------------------------------------------------------------------------


def _peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) / 1024


@pytest.mark.timeout(120)
def test_argon2_memory_flood_is_bounded_by_the_pool_and_validations_go_on(run_dir: Path) -> None:
    """Many logins at once, and a stored hash that asks for four gigabytes."""
    with running_flowless(run_dir, password_profile="owasp", hashing_queue="4") as flowless:
        client = flowless.client
        user, greedy = client.register(), client.register()
        session_id = client.log_in(user).session_id
        with flowless.sql() as connection:
            dear = "$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ$" + "A" * 43
            connection.execute("UPDATE users SET password_hash = ? WHERE id = ?", (dear, greedy.id))
        before = _peak_mib(flowless.process.pid)
        with ThreadPoolExecutor(max_workers=60) as pool:
            logins = [pool.submit(outcome, lambda who=who: client.log_in(who)) for who in (user, greedy) * 30]  # type: ignore[misc]
            denials = [client.denial(session_id) for _ in range(50)]
            answers = {each.result() for each in logins}
        assert denials == [""] * 50
        assert ("RESOURCE_EXHAUSTED", "HASHING_OVERLOADED") in answers
        assert answers <= {
            ("OK", ""),
            ("UNAUTHENTICATED", "LOGIN_REFUSED"),
            ("RESOURCE_EXHAUSTED", "HASHING_OVERLOADED"),
        }
        # Room for sixty calls in the server; 19 MiB and an interpreter in each worker, at most one for each core.
        assert _peak_mib(flowless.process.pid) - before < 64
        workers = children(flowless.process.pid)
        assert 1 <= len(workers) <= (os.cpu_count() or 1)
        assert max(map(_peak_mib, workers)) < 19 + 40
