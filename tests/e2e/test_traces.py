"""Traces that a real pair sends to a real collector: one across all programs, with the right parents."""

import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.support.collector import Collector, running_collector
from tests.support.flowless import fresh_email
from tests.support.system import BROWSER, CALL_SECONDS, App, System, running_system
from tools.processes import free_port
from tools.redis_server import RedisServer
from trustlayer.v1 import session_pb2, validator_pb2

pytestmark = pytest.mark.long

_VALIDATE = "trustlayer.v1.ValidatorService/Validate"
_VALIDATE_UPSTREAM = "trustlayer.v1.BridgeService/ValidateSession"
_LOGIN = "trustlayer.v1.SessionService/Login"
_KEY = "U3RhYmxlIGZvciB0aGlzIHRlc3QsIG5vIHNlY3JldCE="


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A pair, its collector, and a way to call with a trace of one's own."""

    system: System
    collector: Collector

    def caller(self, *, sampled: bool = True) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """A new trace: its id, the app's span in it, and the metadata that says so."""
        trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
        return trace_id, span_id, (("traceparent", f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"),)


def _settings(program: str, collector: Collector) -> dict[str, str]:
    return {
        f"{program}_TRACES_ENDPOINT": collector.endpoint,
        f"{program}_TRACES_SAMPLE_RATIO": "0",  # only what a caller asks for, so that tests know what they see
    }


@pytest.fixture(scope="module")
def traced(module_dir: Path) -> Iterator[Traced]:
    with ExitStack() as stack:
        collector = stack.enter_context(running_collector())
        redis = stack.enter_context(RedisServer())
        (module_dir / "redis-key").write_text(_KEY + "\n")
        system = stack.enter_context(
            running_system(
                module_dir,
                flowless_environment={
                    **_settings("FLOWLESS", collector),
                    "FLOWLESS_REDIS_URL": redis.url,
                    "FLOWLESS_REDIS_KEY_FILE": str(module_dir / "redis-key"),
                },
                sidecar_environment=_settings("BRIDGE_SIDECAR", collector),
            )
        )
        yield Traced(system=system, collector=collector)


def _validate(app: App, session_id: str, metadata: tuple[tuple[str, str], ...]) -> validator_pb2.ValidateResponse:
    request = validator_pb2.ValidateRequest(session_id=session_id, context=BROWSER)
    return app.validator.Validate(request, metadata=metadata, timeout=CALL_SECONDS)


def _new_session(app: App) -> session_pb2.LoginResponse:
    email = fresh_email()
    app.register(email)
    return app.log_in(email)


def test_one_trace_spans_the_app_the_sidecar_flowless_and_its_statements(traced: Traced) -> None:
    session_id = _new_session(traced.system.app).session_id
    trace_id, app_span, metadata = traced.caller()
    assert _validate(traced.system.app, session_id, metadata).HasField("session")
    find = traced.collector.find
    sidecar = find(trace_id, program="bridge-sidecar", name=_VALIDATE)
    asked = find(trace_id, program="bridge-sidecar", name=_VALIDATE_UPSTREAM)
    answered = find(trace_id, program="flowless", name=_VALIDATE_UPSTREAM)
    statement = find(trace_id, program="flowless", name="SELECT log_head,sessions,users")
    redis = find(trace_id, program="flowless", name="redis HGET")
    assert (sidecar.is_server, asked.is_server, answered.is_server) == (True, False, True)
    assert sidecar.parent_id == app_span
    assert asked.parent_id == sidecar.span_id
    assert answered.parent_id == asked.span_id
    assert statement.parent_id == redis.parent_id == answered.span_id
    assert statement.attributes["db.system.name"] == "sqlite"
    assert sidecar.attributes["rpc.grpc.status_code"] == 0
    assert sidecar.attributes["trustlayer.tier"] == answered.attributes["trustlayer.tier"] == "DATABASE"


def test_a_hit_is_a_span_of_the_sidecar_alone(traced: Traced) -> None:
    session_id = _new_session(traced.system.app).session_id
    _validate(traced.system.app, session_id, ())
    trace_id, _, metadata = traced.caller()
    _validate(traced.system.app, session_id, metadata)
    hit = traced.collector.find(trace_id, name=_VALIDATE)
    assert hit.attributes["trustlayer.tier"] == "LRU"
    assert len(traced.collector.of_trace(trace_id)) == 1


def test_a_denial_is_named_and_is_no_failure(traced: Traced) -> None:
    trace_id, _, metadata = traced.caller()
    _validate(traced.system.app, "nonsense", metadata)
    span = traced.collector.find(trace_id, name=_VALIDATE)
    assert span.attributes["trustlayer.denial"] == "MALFORMED"
    assert not span.failed


def test_a_relayed_login_is_traced_down_to_its_transaction(traced: Traced) -> None:
    app = traced.system.app
    email = fresh_email()
    app.register(email)
    trace_id, _, metadata = traced.caller()
    request = session_pb2.LoginRequest(login=email, password="wrong", context=BROWSER)
    with pytest.raises(grpc.RpcError):
        app.sessions.Login(request, metadata=metadata, timeout=CALL_SECONDS)
    relayed = traced.collector.find(trace_id, program="bridge-sidecar", name=_LOGIN, kind=2)
    answered = traced.collector.find(trace_id, program="flowless", name=_LOGIN)
    audited = traced.collector.find(trace_id, program="flowless", name="INSERT audit_events")
    assert relayed.attributes["trustlayer.reason"] == answered.attributes["trustlayer.reason"] == "LOGIN_REFUSED"
    assert audited.parent_id == answered.span_id


def test_both_programs_spans_carry_the_request_id_of_the_app(traced: Traced) -> None:
    session_id = _new_session(traced.system.app).session_id
    trace_id, _, metadata = traced.caller()
    _validate(traced.system.app, session_id, (*metadata, ("x-request-id", "traced-1")))
    for program, name in (("bridge-sidecar", _VALIDATE), ("flowless", _VALIDATE_UPSTREAM)):
        span = traced.collector.find(trace_id, program=program, name=name, kind=2)
        assert span.attributes["trustlayer.request_id"] == "traced-1"


def test_what_the_caller_does_not_record_nobody_records(traced: Traced) -> None:
    session_id = _new_session(traced.system.app).session_id
    unrecorded, _, metadata = traced.caller(sampled=False)
    _validate(traced.system.app, session_id, metadata)
    recorded, _, metadata = traced.caller()
    _validate(traced.system.app, session_id, metadata)
    traced.collector.find(recorded, name=_VALIDATE)
    assert traced.collector.of_known(unrecorded) == []


@pytest.mark.parametrize(
    "nonsense",
    ["", "00-0-0-01", "x" * 5_000, f"ff-{'1' * 32}-{'1' * 16}-01", f"00-{'0' * 32}-{'1' * 16}-01", "00-'; DROP--"],
)
def test_a_traceparent_that_is_none_changes_no_answer(traced: Traced, nonsense: str) -> None:
    assert _validate(traced.system.app, "nonsense", (("traceparent", nonsense),)).denial.reason


def test_spans_of_a_call_that_its_caller_gives_up_end(traced: Traced) -> None:
    app = traced.system.app
    session_id = _new_session(app).session_id
    trace_id, _, metadata = traced.caller()
    request = validator_pb2.ValidateRequest(session_id=session_id, context=BROWSER)
    traced.system.flowless.signal(signal.SIGSTOP)
    try:
        call = app.validator.Validate.future(request, metadata=metadata, timeout=0.3)
        with pytest.raises(grpc.RpcError):
            call.result()
        given_up = traced.collector.find(trace_id, program="bridge-sidecar", name=_VALIDATE)
        asked = traced.collector.find(trace_id, program="bridge-sidecar", name=_VALIDATE_UPSTREAM)
    finally:
        traced.system.flowless.signal(signal.SIGCONT)
    assert given_up.attributes["rpc.grpc.status_code"] in (
        grpc.StatusCode.CANCELLED.value[0],
        grpc.StatusCode.DEADLINE_EXCEEDED.value[0],
    )
    assert asked.failed
    app.wait_for_lease()


def test_a_collector_that_is_away_costs_spans_and_no_answer(run_dir: Path) -> None:
    port = free_port()
    away = Collector(endpoint=f"http://127.0.0.1:{port}")
    settings = {
        program: {f"{program}_TRACES_ENDPOINT": away.endpoint, f"{program}_TRACES_SAMPLE_RATIO": "1"}
        for program in ("FLOWLESS", "BRIDGE_SIDECAR")
    }
    with running_system(
        run_dir, flowless_environment=settings["FLOWLESS"], sidecar_environment=settings["BRIDGE_SIDECAR"]
    ) as system:
        logs = (system.flowless.log, system.sidecar.log)
        session_id = _new_session(system.app).session_id
        deadline = time.monotonic() + 30
        while not all("does not take spans" in log.read_text() for log in logs):
            assert _validate(system.app, session_id, ()).HasField("session")
            assert time.monotonic() < deadline, [log.read_text() for log in logs]
            time.sleep(0.05)
        with running_collector(away, port=port) as back:
            while not back.spans:
                assert _validate(system.app, session_id, ()).HasField("session")
                assert time.monotonic() < deadline + 30
                time.sleep(0.05)
        assert system.sidecar.stop() == 0
        assert system.flowless.stop() == 0
        assert all(log.read_text().count("does not take spans") < 5 for log in logs)


def test_no_span_holds_a_session_id_a_person_or_an_address(traced: Traced) -> None:
    app = traced.system.app
    email = fresh_email()
    user = app.register(email)
    login = app.log_in(email)
    trace_id, _, metadata = traced.caller()
    _validate(app, login.session_id, metadata)
    app.sessions.Logout(
        session_pb2.LogoutRequest(session_id=login.session_id), metadata=metadata, timeout=CALL_SECONDS
    )
    traced.collector.find(trace_id, program="flowless", name="INSERT revocations")
    sent = b"".join(traced.collector.received)
    for secret in (login.session_id, login.session.handle, user.id, email, BROWSER.client_ip):
        assert secret.encode() not in sent
