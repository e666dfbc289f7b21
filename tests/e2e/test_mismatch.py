"""A session that is used from somewhere else: what a real Flowless makes of the report."""

from collections.abc import Iterator

import grpc
import pytest

from flowless.domain.bridges import Scope
from tests.support.flowless import BROWSER, PASSWORD, Client, Flowless, outcome, running_flowless, violated_fields
from tools.processes import temporary_directory
from trustlayer.v1 import admin_pb2, bridge_pb2, session_pb2, types_pb2

STANDARD, ADVANCED, STRICT = (
    types_pb2.VALIDATION_MODE_STANDARD,
    types_pb2.VALIDATION_MODE_ADVANCED,
    types_pb2.VALIDATION_MODE_STRICT,
)


@pytest.fixture(scope="module")
def flowless() -> Iterator[Flowless]:
    with temporary_directory() as directory, running_flowless(directory) as running:
        yield running


@pytest.fixture(scope="module")
def client(flowless: Flowless) -> Client:
    return flowless.client


def _elsewhere(**parts: str) -> types_pb2.RequestContext:
    context = types_pb2.RequestContext()
    context.CopyFrom(BROWSER)
    for name, value in parts.items():
        setattr(context, name, value)
    return context


def _report(
    client: Client,
    session_id: str,
    mode: types_pb2.ValidationMode.ValueType,
    context: types_pb2.RequestContext,
    **fields: int,
) -> bridge_pb2.ReportMismatchResponse:
    request = bridge_pb2.ReportMismatchRequest(session_id=session_id, mode=mode, context=context, **fields)
    return client.bridge.ReportMismatch(request)


def _denial(client: Client, login: session_pb2.LoginResponse) -> int:
    return int(client.validate(login.session_id).denial.reason)


@pytest.mark.parametrize(
    ("mode", "context", "reason"),
    [
        (STANDARD, _elsewhere(client_ip="198.51.100.9"), types_pb2.DENIAL_REASON_IP_MISMATCH),
        (ADVANCED, _elsewhere(device_fingerprint="another"), types_pb2.DENIAL_REASON_DEVICE_MISMATCH),
        (STRICT, _elsewhere(user_agent="another"), types_pb2.DENIAL_REASON_USER_AGENT_MISMATCH),
    ],
)
def test_a_mismatch_revokes_the_session_once_and_leaves_an_event(
    client: Client, mode: types_pb2.ValidationMode.ValueType, context: types_pb2.RequestContext, reason: int
) -> None:
    login = client.new_session()
    report = _report(client, login.session_id, mode, context)
    assert (report.denial.reason, report.revoked) == (reason, True)
    assert _denial(client, login) == types_pb2.DENIAL_REASON_REVOKED

    again = _report(client, login.session_id, mode, context)
    assert (again.denial.reason, again.revoked) == (types_pb2.DENIAL_REASON_REVOKED, False)
    request = admin_pb2.ListAuditEventsRequest(user_id=login.session.user.id, page_size=100)
    events = [e for e in client.admin.ListAuditEvents(request).events if e.action == "session.mismatch"]
    (event,) = events
    assert event.subject == login.session.handle
    assert event.client_ip == context.client_ip
    assert types_pb2.DenialReason.Value(f"DENIAL_REASON_{event.details['reason']}") == reason
    assert login.session_id not in str(event)


@pytest.mark.parametrize(
    ("mode", "context", "reason"),
    [
        (STRICT, BROWSER, 0),
        (STANDARD, _elsewhere(device_fingerprint="another"), 0),
        (STANDARD, _elsewhere(client_ip=""), types_pb2.DENIAL_REASON_CONTEXT_MISSING),
        (STRICT, _elsewhere(user_agent=""), types_pb2.DENIAL_REASON_CONTEXT_MISSING),
    ],
)
def test_what_is_no_mismatch_revokes_nothing(
    client: Client, mode: types_pb2.ValidationMode.ValueType, context: types_pb2.RequestContext, reason: int
) -> None:
    login = client.new_session()
    report = _report(client, login.session_id, mode, context)
    assert (report.denial.reason, report.revoked) == (reason, False)
    assert _denial(client, login) == 0


def test_what_was_not_bound_at_login_cannot_be_a_mismatch(client: Client) -> None:
    login = client.sessions.Login(
        session_pb2.LoginRequest(
            login=client.register().email,
            password=PASSWORD,
            context=types_pb2.RequestContext(client_ip=BROWSER.client_ip),
        )
    )
    assert list(login.session.satisfiable_modes) == [STANDARD]
    report = _report(client, login.session_id, ADVANCED, BROWSER)
    assert (report.denial.reason, report.revoked) == (types_pb2.DENIAL_REASON_CONTEXT_NOT_BOUND, False)
    assert _denial(client, login) == 0


def test_the_address_is_compared_as_far_as_the_route_that_reports_says(client: Client) -> None:
    login = client.new_session()
    neighbour = _elsewhere(client_ip=BROWSER.client_ip.rpartition(".")[0] + ".254")
    assert not _report(client, login.session_id, STANDARD, neighbour, ipv4_prefix=24).revoked
    assert _report(client, login.session_id, STANDARD, neighbour).revoked


def test_a_report_that_cannot_be_understood_is_refused(client: Client) -> None:
    login = client.new_session()
    for field, request in {
        "mode": bridge_pb2.ReportMismatchRequest(session_id=login.session_id, context=BROWSER),
        "ipv4_prefix": bridge_pb2.ReportMismatchRequest(
            session_id=login.session_id, mode=STANDARD, context=BROWSER, ipv4_prefix=33
        ),
        "session_id": bridge_pb2.ReportMismatchRequest(session_id="sess_x", mode=STANDARD, context=BROWSER),
    }.items():
        with pytest.raises(grpc.RpcError) as failed:
            client.bridge.ReportMismatch(request)
        assert violated_fields(failed.value) == [field]


def test_a_bridge_that_may_not_validate_may_not_report(client: Client) -> None:
    login = client.new_session()
    _, secret = client.create_bridge(Scope.SESSIONS)
    other = Client(client.channel, secret)
    assert outcome(lambda: _report(other, login.session_id, STANDARD, BROWSER)) == (
        "PERMISSION_DENIED",
        "SCOPE_MISSING",
    )
    assert _denial(client, login) == 0
