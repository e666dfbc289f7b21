"""The main job on real processes: an app has one socket, stubs and no secret."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2

from tests.support.rpc import detail, reason
from tests.support.system import BROWSER, CALL_SECONDS, PASSWORD, System, running_system
from trust_core.identifiers import new_session_id
from trustlayer.v1 import bridge_pb2_grpc, identity_pb2, session_pb2, types_pb2, validator_pb2
from trustlayer.v1.bridge_pb2 import ValidateSessionRequest

STRICT = types_pb2.VALIDATION_MODE_STRICT


@pytest.fixture(scope="module")
def system(module_dir: Path) -> Iterator[System]:
    with running_system(module_dir) as system:
        yield system


@pytest.fixture
def email(request: pytest.FixtureRequest) -> str:
    return f"{abs(hash(request.node.name))}@example.org"


def test_a_session_is_read_from_the_database_once_and_from_memory_afterwards(system: System, email: str) -> None:
    user = system.app.register(email, roles=("b", "a"))
    login = system.app.log_in(email)
    first, second = system.app.validate(login.session_id), system.app.validate(login.session_id)
    assert (first.freshness.tier, second.freshness.tier) == (types_pb2.TIER_DATABASE, types_pb2.TIER_LRU)
    assert first.session == second.session == login.session
    assert second.session.user.id == user.id
    assert list(second.session.user.roles) == ["a", "b"]
    assert list(second.session.satisfiable_modes) == [1, 2, 3]
    assert second.freshness.age.ToTimedelta().total_seconds() >= 0


def test_a_malformed_id_is_denied_without_asking_flowless(system: System, email: str) -> None:
    system.app.register(email)
    good = system.app.log_in(email).session_id
    forged = good[:-1] + ("0" if good[-1] != "0" else "1")
    before = system.app.status().upstream_calls
    cut = [good[:20] + "\0" + good[21:], good + "\n", " " + good, "ſess_" + good[5:], good.replace("sess_", "SESS_")]
    garbage = [forged, "", "sess_", good + "x", good[:-1], "x" * 100_000, "\0", "🔑" * 40, *cut]
    for text in garbage:
        answer = system.app.validate(text)
        assert answer.denial.reason == types_pb2.DENIAL_REASON_MALFORMED, repr(text)
        assert answer.freshness.tier == types_pb2.TIER_NONE
    assert system.app.status().upstream_calls == before


def test_an_id_that_is_not_utf8_is_an_error_that_says_so(system: System) -> None:
    path = "/trustlayer.v1.ValidatorService/Validate"
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = system.app.channel.unary_unary(path)
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\x0a\x02\xff\xfe", timeout=CALL_SECONDS)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(caught.value) == "MALFORMED_MESSAGE"


def test_an_unknown_id_is_denied_and_remembered_for_a_moment(system: System) -> None:
    unknown = new_session_id(lambda n: bytes(range(n)))
    answer = system.app.validate(unknown)
    assert answer.denial.reason == types_pb2.DENIAL_REASON_UNKNOWN
    before = system.app.status().upstream_calls
    assert system.app.validate(unknown).freshness.tier == types_pb2.TIER_LRU
    assert system.app.status().upstream_calls == before


@pytest.mark.parametrize(
    ("mode", "context", "expected"),
    [
        (1, types_pb2.RequestContext(), "CONTEXT_MISSING"),
        (1, types_pb2.RequestContext(client_ip="203.0.113.8"), "IP_MISMATCH"),
        (0, types_pb2.RequestContext(client_ip="203.0.113.8"), "IP_MISMATCH"),
        (1, types_pb2.RequestContext(client_ip="::ffff:203.0.113.7"), None),
        (1, types_pb2.RequestContext(client_ip="not an address"), "IP_MISMATCH"),
        (2, types_pb2.RequestContext(client_ip="203.0.113.7"), "CONTEXT_MISSING"),
        (2, types_pb2.RequestContext(client_ip="203.0.113.7", device_fingerprint="x"), "DEVICE_MISMATCH"),
        (3, types_pb2.RequestContext(client_ip="203.0.113.7", device_fingerprint="device", user_agent="x"),
         "USER_AGENT_MISMATCH"),
        (3, BROWSER, None),
    ],
)  # fmt: skip
def test_a_mode_checks_its_part_of_the_context_on_a_miss_and_on_a_hit(
    system: System, email: str, mode: int, context: types_pb2.RequestContext, expected: str | None
) -> None:
    system.app.register(email)
    session_id = system.app.log_in(email).session_id
    request = validator_pb2.ValidateRequest(session_id=session_id, mode=types_pb2.ValidationMode.ValueType(mode))
    request.context.CopyFrom(context)
    for _ in range(2):
        answer = system.app.validator.Validate(request, timeout=CALL_SECONDS)
        got = types_pb2.DenialReason.Name(answer.denial.reason) if answer.HasField("denial") else None
        assert got == (expected and f"DENIAL_REASON_{expected}")


def test_what_was_not_bound_at_login_cannot_be_checked_later(system: System, email: str) -> None:
    system.app.register(email)
    context = types_pb2.RequestContext(client_ip=BROWSER.client_ip)
    login = system.app.sessions.Login(session_pb2.LoginRequest(login=email, password=PASSWORD, context=context))
    assert list(login.session.satisfiable_modes) == [types_pb2.VALIDATION_MODE_STANDARD]
    assert system.app.validate(login.session_id).denial.reason == types_pb2.DENIAL_REASON_CONTEXT_NOT_BOUND


def test_an_unknown_mode_and_a_negative_revision_are_named(system: System) -> None:
    request = validator_pb2.ValidateRequest(
        session_id="x",
        mode=77,  # type: ignore[arg-type]
        min_revision=-1,
    )
    with pytest.raises(grpc.RpcError) as caught:
        system.app.validator.Validate(request, timeout=CALL_SECONDS)
    assert reason(caught.value) == "INVALID_FIELD"
    violations = detail(caught.value, error_details_pb2.BadRequest)
    assert violations is not None
    assert [v.field for v in violations.field_violations] == ["mode", "min_revision"]


def test_roles_that_changed_are_seen_at_the_socket_at_once(system: System, email: str) -> None:
    user = system.app.register(email, roles=("reader",))
    session_id = system.app.log_in(email).session_id
    system.app.validate(session_id)
    system.app.identity.UpdateUser(
        identity_pb2.UpdateUserRequest(
            user_id=user.id, user=types_pb2.User(roles=["writer"]), update_mask=FieldMask(paths=["roles"])
        )
    )
    assert list(system.app.validate(session_id).session.user.roles) == ["writer"]


def test_a_logout_through_the_socket_is_refused_by_the_next_validation(system: System, email: str) -> None:
    system.app.register(email)
    for _ in range(20):
        session_id = system.app.log_in(email).session_id
        assert system.app.validate(session_id).HasField("session")
        revision = system.app.sessions.Logout(session_pb2.LogoutRequest(session_id=session_id)).revision
        answer = system.app.validate(session_id)
        assert answer.denial.reason == types_pb2.DENIAL_REASON_REVOKED
        assert answer.freshness.revision >= revision
        again = system.app.sessions.Logout(session_pb2.LogoutRequest(session_id=session_id)).revision
        assert again >= revision


def test_revoking_all_but_one_leaves_that_one(system: System, email: str) -> None:
    user = system.app.register(email)
    logins = [system.app.log_in(email) for _ in range(3)]
    for login in logins:
        assert system.app.validate(login.session_id).HasField("session")
    listed = system.app.sessions.ListSessions(session_pb2.ListSessionsRequest(user_id=user.id)).sessions
    assert {s.handle for s in listed} == {login.session.handle for login in logins}
    system.app.sessions.RevokeUserSessions(
        session_pb2.RevokeUserSessionsRequest(user_id=user.id, except_handle=logins[1].session.handle)
    )
    verdicts = [system.app.validate(login.session_id).HasField("session") for login in logins]
    assert verdicts == [False, True, False]


def test_revoking_by_handle_ends_that_session_only(system: System, email: str) -> None:
    system.app.register(email)
    logins = [system.app.log_in(email) for _ in range(2)]
    for login in logins:
        system.app.validate(login.session_id)
    system.app.sessions.RevokeSession(session_pb2.RevokeSessionRequest(handle=logins[0].session.handle))
    assert [system.app.validate(login.session_id).HasField("session") for login in logins] == [False, True]


def test_disabling_a_user_denies_the_sessions_and_enabling_does_not_bring_them_back(
    system: System, email: str
) -> None:
    user = system.app.register(email)
    session_id = system.app.log_in(email).session_id
    system.app.validate(session_id)
    system.app.identity.DisableUser(identity_pb2.DisableUserRequest(user_id=user.id))
    assert system.app.validate(session_id).denial.reason == types_pb2.DENIAL_REASON_USER_DISABLED
    with pytest.raises(grpc.RpcError) as caught:
        system.app.log_in(email)
    assert reason(caught.value) == "LOGIN_REFUSED"
    system.app.identity.EnableUser(identity_pb2.EnableUserRequest(user_id=user.id))
    assert system.app.validate(session_id).denial.reason == types_pb2.DENIAL_REASON_REVOKED
    assert system.app.validate(system.app.log_in(email).session_id).HasField("session")


def test_a_password_change_ends_the_other_sessions(system: System, email: str) -> None:
    user = system.app.register(email)
    kept, other = system.app.log_in(email), system.app.log_in(email)
    for login in (kept, other):
        system.app.validate(login.session_id)
    changed = system.app.identity.ChangePassword(
        identity_pb2.ChangePasswordRequest(
            user_id=user.id,
            current_password=PASSWORD,
            new_password="another password entirely",
            session_id=kept.session_id,
            context=types_pb2.RequestContext(client_ip="203.0.113.7"),
        )
    )
    assert system.app.validate(changed.session_id).HasField("session")
    assert system.app.validate(kept.session_id).denial.reason == types_pb2.DENIAL_REASON_UNKNOWN
    assert system.app.validate(other.session_id).denial.reason == types_pb2.DENIAL_REASON_REVOKED


def test_rotation_replaces_the_id_and_keeps_the_handle(system: System, email: str) -> None:
    system.app.register(email)
    login = system.app.log_in(email)
    system.app.validate(login.session_id)
    rotated = system.app.sessions.RotateSession(session_pb2.RotateSessionRequest(session_id=login.session_id))
    assert rotated.session.handle == login.session.handle
    assert system.app.validate(rotated.session_id).HasField("session")
    assert system.app.validate(login.session_id).denial.reason == types_pb2.DENIAL_REASON_UNKNOWN


def test_a_deleted_users_session_is_unknown(system: System, email: str) -> None:
    user = system.app.register(email)
    session_id = system.app.log_in(email).session_id
    system.app.validate(session_id)
    system.app.identity.DeleteUser(identity_pb2.DeleteUserRequest(user_id=user.id))
    assert system.app.validate(session_id).denial.reason == types_pb2.DENIAL_REASON_UNKNOWN


def test_a_revision_that_will_never_come_is_unavailable_and_not_a_denial(system: System, email: str) -> None:
    system.app.register(email)
    session_id = system.app.log_in(email).session_id
    with pytest.raises(grpc.RpcError) as caught:
        system.app.validate(session_id, min_revision=10**12)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(caught.value) == "REVISION_NOT_REACHED"


def test_the_socket_offers_no_service_of_bridges_and_admins(system: System) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        bridge_pb2_grpc.BridgeServiceStub(system.app.channel).ValidateSession(ValidateSessionRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_over_the_limit_is_refused_and_the_next_one_served(system: System, email: str) -> None:
    system.app.register(email)
    session_id = system.app.log_in(email).session_id
    with pytest.raises(grpc.RpcError) as caught:
        system.app.validate("x" * 4_000_000)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert system.app.validate(session_id).HasField("session")
