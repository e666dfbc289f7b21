"""What the Python client makes of answers, failures, deadlines and cancellation, with and without asyncio."""

import asyncio
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, duration_pb2
from google.rpc import error_details_pb2

import trustlayer
from tests.clients.python.conftest import LoggedIn
from tests.clients.python.scripted import CLIENT_IP, ScriptedSidecar, answering, failing
from tests.support.system import System
from trustlayer import CallFailed, Client, DenialReason, Mode, SessionDenied, ValidatorUnavailable, aio
from trustlayer._calls import _WITHOUT_SIDE_EFFECTS, Attempts
from trustlayer.v1 import identity_pb2, session_pb2, trust_token_pb2, types_pb2, validator_pb2

KINDS = ("sync", "asyncio")
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
OURS = error_details_pb2.ErrorInfo(reason="UPSTREAM_UNAVAILABLE", domain="trustlayer")
ACTIVE = validator_pb2.ValidateResponse(session=types_pb2.Session(handle="sh_1", user=types_pb2.User(id="usr_1")))


class Asked:
    """Either client, asked the same way."""

    def __init__(self, kind: str, socket: str, **options: Any) -> None:
        self.kind = kind
        options.setdefault("timeout", 10.0)  # a machine may be busy
        self._sync, self._aio = Client(socket, **options), aio.Client(socket, **options)
        self._runner = asyncio.Runner()

    def validate(self, session_id: str, **question: Any) -> trustlayer.Validation:
        question.setdefault("client_ip", CLIENT_IP)
        if self.kind == "sync":
            return self._sync.validate(session_id, **question)
        return self._runner.run(self._aio.validate(session_id, **question))

    def call(self, of: Callable[[Any], Any]) -> Any:
        """Call a method of a stub: `lambda client: client.sessions.Login(request)`."""
        if self.kind == "sync":
            return of(self._sync)

        async def awaited() -> Any:
            return await of(self._aio)

        return self._runner.run(awaited())

    def close(self) -> None:
        self._sync.close()
        self._runner.run(self._aio.close())
        self._runner.close()


@contextmanager
def asked(kind: str, socket: str, **options: Any) -> Iterator[Asked]:
    client = Asked(kind, socket, **options)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, socket: str) -> Iterator[Asked]:
    with asked(request.param, socket) as client:
        yield client


@contextmanager
def scripted(kind: str, run_dir: Path, *script: Any, **options: Any) -> Iterator[tuple[Asked, ScriptedSidecar]]:
    sidecar = ScriptedSidecar(*script)
    with sidecar.serving(run_dir / "scripted.sock") as socket, asked(kind, socket, **options) as client:
        yield client, sidecar


each_kind = pytest.mark.parametrize("kind", KINDS)


def test_a_session_is_welcomed_and_says_how_fresh_it_is(client: Asked, ada: LoggedIn) -> None:
    found = client.validate(ada.session_id, mode=Mode.STANDARD)
    assert (found.session.user.email, found.session.handle) == (ada.email, ada.handle)
    assert found.freshness.tier in (types_pb2.TIER_LRU, types_pb2.TIER_DATABASE)


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ({"client_ip": "198.51.100.9"}, DenialReason.IP_MISMATCH),
        ({"client_ip": ""}, DenialReason.CONTEXT_MISSING),
        ({"mode": Mode.STRICT, "device_fingerprint": "device"}, DenialReason.CONTEXT_MISSING),
        ({"mode": Mode.ADVANCED, "device_fingerprint": "other"}, DenialReason.DEVICE_MISMATCH),
        ({"route": "no-such-rule"}, DenialReason.ROUTE_NOT_COVERED),
    ],
)
def test_a_denial_is_an_error_of_its_own_that_says_why(
    client: Asked, ada: LoggedIn, question: dict[str, Any], reason: DenialReason
) -> None:
    with pytest.raises(SessionDenied) as denied:
        client.validate(ada.session_id, **question)
    assert denied.value.reason is reason
    assert denied.value.message


@pytest.mark.parametrize("text", ["", "nonsense", "sess_\ud800", "sess_" + "x" * 10_000, "sess_é"])
def test_what_is_no_session_id_is_denied_whatever_it_is(client: Asked, text: str) -> None:
    with pytest.raises(SessionDenied) as denied:
        client.validate(text)
    assert denied.value.reason is DenialReason.MALFORMED
    assert text not in str(denied.value) or not text
    assert denied.value.__cause__ is None


def test_a_question_that_is_wrong_is_a_failed_call_that_names_the_fields(client: Asked, ada: LoggedIn) -> None:
    with pytest.raises(CallFailed) as failed:
        client.validate(ada.session_id, route="x" * 129)
    assert (failed.value.reason, failed.value.fields) == ("INVALID_FIELD", ("route",))
    assert failed.value.request_id
    with pytest.raises(CallFailed):
        client.validate(ada.session_id, user_agent="\udcff")
    with pytest.raises(CallFailed):
        client.validate(ada.session_id, min_revision=2**64)


def test_a_relayed_call_fails_with_all_that_the_error_says(client: Asked) -> None:
    request = session_pb2.LoginRequest(
        login="nobody", password="x", context=types_pb2.RequestContext(client_ip="::1")
    )
    with pytest.raises(CallFailed) as failed:
        client.call(lambda c: c.sessions.Login(request))
    assert (failed.value.code, failed.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, "LOGIN_REFUSED")
    assert failed.value.message
    assert failed.value.request_id in str(failed.value)
    with pytest.raises(CallFailed) as failed:
        client.call(lambda c: c.identity.DeleteUser(identity_pb2.DeleteUserRequest(user_id="usr_1")))
    assert (failed.value.reason, failed.value.fields) == ("INVALID_FIELD", ("user_id",))


def test_a_revision_that_is_not_reached_is_unavailable_and_says_when_to_ask_again(
    client: Asked, ada: LoggedIn
) -> None:
    with pytest.raises(ValidatorUnavailable) as unavailable:
        client.validate(ada.session_id, min_revision=10**12)
    assert unavailable.value.reason == "REVISION_NOT_REACHED"
    assert unavailable.value.retry_after is not None
    assert unavailable.value.retry_after > 0


@each_kind
def test_a_client_that_was_closed_says_so(kind: str, socket: str, ada: LoggedIn) -> None:
    client = Asked(kind, socket)
    client.validate(ada.session_id)
    client.close()
    client._runner = asyncio.Runner()
    with pytest.raises(ValidatorUnavailable, match="the client is closed"):
        client.validate(ada.session_id)
    with pytest.raises(CallFailed, match="the client is closed"):
        client.call(lambda c: c.sessions.Login(session_pb2.LoginRequest()))
    client._runner.close()


def test_who_waits_while_the_client_is_closed_was_not_cancelled(run_dir: Path) -> None:
    sidecar = ScriptedSidecar()

    async def close_meanwhile(socket: str) -> None:
        client = aio.Client(socket)
        waiting = asyncio.create_task(client.validate("sess_1", timeout=20))
        cancelled = asyncio.create_task(client.validate("sess_1", timeout=20))
        while sidecar.calls < 2:
            await asyncio.sleep(0.01)
        cancelled.cancel()
        await client.close()
        with pytest.raises(ValidatorUnavailable, match="the client is closed"):
            await waiting
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    with sidecar.serving(run_dir / "s.sock") as socket:
        asyncio.run(close_meanwhile(socket))


def test_threads_that_wait_while_the_client_is_closed_are_told_that_nobody_knows(run_dir: Path) -> None:
    sidecar = ScriptedSidecar()
    with sidecar.serving(run_dir / "s.sock") as socket, ThreadPoolExecutor(1) as pool:
        client = Client(socket)
        waiting = pool.submit(client.validate, "sess_1", timeout=20)
        wait_until(lambda: sidecar.calls == 1)
        client.close()
        assert isinstance(waiting.exception(), ValidatorUnavailable)


@each_kind
def test_a_client_outlives_its_sidecar(kind: str, system: System, socket: str, ada: LoggedIn) -> None:
    with asked(kind, socket) as client:
        client.validate(ada.session_id)
        system.sidecar.stop()
        with pytest.raises(ValidatorUnavailable) as unavailable:
            client.validate(ada.session_id)
        assert (unavailable.value.code, unavailable.value.reason) == (UNAVAILABLE, "")
        system.sidecar.start()
        back = time.monotonic()
        while True:
            try:
                client.validate(ada.session_id)
                break
            except ValidatorUnavailable:
                assert time.monotonic() - back < 3.0  # a second, and what a busy machine takes


def test_streams_are_not_offered(socket: str) -> None:
    with Client(socket) as client, pytest.raises(NotImplementedError, match="ImportUsers"):
        client.identity.ImportUsers(iter(()))


def test_futures_of_grpc_are_not_offered(socket: str) -> None:
    with Client(socket) as client, pytest.raises(NotImplementedError, match=r"trustlayer\.aio"):
        client.validator.GetStatus.future(validator_pb2.GetStatusRequest())


def test_metadata_of_an_answer_can_be_had(socket: str) -> None:
    with Client(socket) as client:
        answer, call = client.validator.GetStatus.with_call(
            validator_pb2.GetStatusRequest(), metadata=(("x-request-id", "seen"),)
        )
    assert answer.version
    assert call.code() is grpc.StatusCode.OK


# ---- what no real sidecar of this version does ----


@each_kind
def test_a_call_that_reached_nobody_is_made_again_three_times_and_then_fails(kind: str, run_dir: Path) -> None:
    with scripted(kind, run_dir, failing(UNAVAILABLE)) as (client, sidecar):
        before = time.monotonic()
        with pytest.raises(ValidatorUnavailable):
            client.validate("sess_1")
        assert sidecar.calls == 4
        assert time.monotonic() - before >= 0.26


@each_kind
def test_a_call_that_reached_nobody_succeeds_when_somebody_is_there_again(kind: str, run_dir: Path) -> None:
    away = failing(UNAVAILABLE)
    with scripted(kind, run_dir, away, away, answering(ACTIVE)) as (client, sidecar):
        assert client.validate("sess_1").session.handle == "sh_1"
        assert sidecar.calls == 3


@each_kind
@pytest.mark.parametrize(
    "step",
    [
        failing(UNAVAILABLE, OURS),
        failing(grpc.StatusCode.INTERNAL),
        failing(grpc.StatusCode.RESOURCE_EXHAUSTED),
        failing(grpc.StatusCode.CANCELLED),
        failing(grpc.StatusCode.DEADLINE_EXCEEDED),
        failing(grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_what_somebody_answered_is_not_asked_again_and_is_unavailable(kind: str, run_dir: Path, step: Any) -> None:
    with scripted(kind, run_dir, step) as (client, sidecar):
        with pytest.raises(ValidatorUnavailable):
            client.validate("sess_1")
        assert sidecar.calls == 1


@each_kind
def test_a_call_with_side_effects_is_never_made_again(kind: str, run_dir: Path) -> None:
    with scripted(kind, run_dir, failing(UNAVAILABLE)) as (client, sidecar):
        for call in (
            lambda c: c.sessions.Login(session_pb2.LoginRequest()),
            lambda c: c.sessions.Logout(session_pb2.LogoutRequest()),
            lambda c: c.trust_tokens.ConsumeTrustToken(trust_token_pb2.ConsumeTrustTokenRequest()),
        ):
            calls = sidecar.calls
            with pytest.raises(CallFailed):
                client.call(call)
            assert sidecar.calls == calls + 1


@pytest.mark.parametrize(("timeout", "delays"), [(10.0, [0.02, 0.06, 0.18]), (0.2, [0.02, 0.06]), (0.01, [])])
def test_nothing_is_waited_for_past_the_deadline(
    timeout: float, delays: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("trustlayer._calls.time", SimpleNamespace(monotonic=lambda: now))
    attempts = Attempts("/trustlayer.v1.ValidatorService/Validate", timeout)
    waited = []
    while (delay := attempts.delay_before_next(trustlayer.Failure(UNAVAILABLE))) is not None:
        waited.append(delay)
        now += delay
    assert waited == delays
    assert now - 1000.0 + attempts.time_left == pytest.approx(timeout)


@each_kind
def test_a_sidecar_that_never_answers_is_unavailable_at_the_default_deadline(kind: str, run_dir: Path) -> None:
    sidecar = ScriptedSidecar()
    with sidecar.serving(run_dir / "s.sock") as socket, asked(kind, socket, timeout=0.3, call_timeout=0.2) as client:
        before = time.monotonic()
        with pytest.raises(ValidatorUnavailable) as unavailable:
            client.validate("sess_1")
        assert unavailable.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - before >= 0.3
        with pytest.raises(CallFailed) as failed:
            client.call(lambda c: c.sessions.ListSessions(session_pb2.ListSessionsRequest()))
        assert failed.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_default_deadlines_are_the_documented_ones(run_dir: Path) -> None:
    left: list[float] = []

    def note(context: grpc.ServicerContext) -> bytes:
        left.append(context.time_remaining())
        return b""

    with ScriptedSidecar(note).serving(run_dir / "s.sock") as socket, Client(socket) as client:
        client.validator.GetStatus(validator_pb2.GetStatusRequest())
        client.sessions.Login(session_pb2.LoginRequest())
    assert left == [pytest.approx(2.0, abs=1.0), pytest.approx(10.0, abs=1.0)]


def test_who_is_cancelled_gets_asyncios_own_error_and_so_does_the_sidecar(run_dir: Path) -> None:
    sidecar = ScriptedSidecar()

    async def give_up(socket: str) -> None:
        async with aio.Client(socket) as client:
            task = asyncio.create_task(client.validate("sess_1", timeout=20))
            while sidecar.calls == 0:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.validate("sess_1", timeout=20)

    with sidecar.serving(run_dir / "s.sock") as socket:
        asyncio.run(give_up(socket))
        wait_until(lambda: len(sidecar.ended_with) == sidecar.calls)
    assert all(sidecar.ended_with)


def test_a_signal_ends_the_wait_with_its_own_error_and_the_call_with_it(run_dir: Path) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    sidecar = ScriptedSidecar()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with sidecar.serving(run_dir / "s.sock") as socket, Client(socket) as client:
            main = threading.main_thread().ident
            assert main is not None

            def interrupt_main() -> None:
                wait_until(lambda: sidecar.calls == 1)
                signal.pthread_kill(main, signal.SIGALRM)

            watchdog = threading.Thread(target=interrupt_main)
            watchdog.start()
            with pytest.raises(Interrupted):
                client.validate("sess_1", timeout=20)
            watchdog.join()
            wait_until(lambda: sidecar.ended_with == [True])
    finally:
        signal.signal(signal.SIGALRM, before)


@each_kind
def test_an_answer_that_is_neither_yes_nor_no_is_unavailable(kind: str, run_dir: Path) -> None:
    # A member of the `oneof` that this version does not know: field 15, a string.
    newer = b"\x7a\x03new"
    with scripted(kind, run_dir, lambda _: newer) as (client, _), pytest.raises(ValidatorUnavailable):
        client.validate("sess_1")


@each_kind
@pytest.mark.parametrize(
    "session",
    [
        types_pb2.Session(),
        types_pb2.Session(handle="sh_1"),
        types_pb2.Session(handle="sh_1", user=types_pb2.User(email="ada@example.org")),
        types_pb2.Session(user=types_pb2.User(id="usr_1")),
    ],
)
def test_a_session_of_nobody_is_no_yes(kind: str, run_dir: Path, session: types_pb2.Session) -> None:
    answer = answering(validator_pb2.ValidateResponse(session=session))
    with scripted(kind, run_dir, answer) as (client, _), pytest.raises(ValidatorUnavailable) as unavailable:
        client.validate("sess_1")
    assert (unavailable.value.code, unavailable.value.message) == (
        grpc.StatusCode.UNKNOWN,
        "the answer holds a session of nobody",
    )


@each_kind
def test_only_a_sidecar_can_say_that_the_question_is_wrong(kind: str, run_dir: Path) -> None:
    wrong = grpc.StatusCode.INVALID_ARGUMENT
    with scripted(kind, run_dir, failing(wrong)) as (client, _), pytest.raises(ValidatorUnavailable):
        client.validate("sess_1")
    ours = failing(wrong, error_details_pb2.ErrorInfo(reason="INVALID_FIELD", domain="trustlayer"))
    with scripted(kind, run_dir, ours) as (client, _), pytest.raises(CallFailed):
        client.validate("sess_1")


@each_kind
def test_an_answer_that_cannot_be_read_is_unavailable(kind: str, run_dir: Path) -> None:
    with scripted(kind, run_dir, lambda _: b"\xff" * 5) as (client, sidecar):
        with pytest.raises(ValidatorUnavailable):
            client.validate("sess_1")
        assert sidecar.calls == 1


@each_kind
def test_a_reason_of_a_newer_sidecar_is_a_denial_that_keeps_its_number(kind: str, run_dir: Path) -> None:
    denial = validator_pb2.ValidateResponse(denial=types_pb2.Denial(message="newer"))
    denial.denial.reason = types_pb2.DenialReason.ValueType(99)
    with scripted(kind, run_dir, answering(denial)) as (client, _), pytest.raises(SessionDenied) as denied:
        client.validate("sess_1")
    assert int(denied.value.reason) == 99
    assert denied.value.reason == DenialReason(99)
    assert denied.value.reason.name == "UNRECOGNIZED_99"


@each_kind
def test_details_of_a_newer_flowless_are_passed_over(kind: str, run_dir: Path) -> None:
    details = (
        duration_pb2.Duration(seconds=1),
        error_details_pb2.ErrorInfo(reason="NEWER_THAN_THIS", domain="trustlayer"),
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)),
    )
    with scripted(kind, run_dir, failing(UNAVAILABLE, *details)) as (client, sidecar):
        with pytest.raises(ValidatorUnavailable) as unavailable:
            client.validate("sess_1")
        assert (unavailable.value.reason, unavailable.value.retry_after) == ("NEWER_THAN_THIS", 1.5)
        assert sidecar.calls == 1


def test_an_error_of_another_domain_is_none_of_ours(run_dir: Path) -> None:
    other = error_details_pb2.ErrorInfo(reason="UPSTREAM_UNAVAILABLE", domain="envoy.example")
    with scripted("sync", run_dir, failing(UNAVAILABLE, other)) as (client, sidecar):
        with pytest.raises(ValidatorUnavailable) as unavailable:
            client.validate("sess_1")
        assert (unavailable.value.reason, sidecar.calls) == ("", 4)


# ---- words ----


def test_the_words_are_those_of_the_standard() -> None:
    assert {reason.name: int(reason) for reason in DenialReason} == {
        name.removeprefix("DENIAL_REASON_"): number for name, number in types_pb2.DenialReason.items()
    }
    assert {mode.name.replace("DEFAULT", "UNSPECIFIED"): int(mode) for mode in Mode} == {
        name.removeprefix("VALIDATION_MODE_"): number for name, number in types_pb2.ValidationMode.items()
    }


def test_what_is_repeated_is_what_the_standard_says_has_no_side_effects() -> None:
    services = [
        service
        for module in (validator_pb2, identity_pb2, session_pb2, trust_token_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    wanted = {
        f"/{service.full_name}/{method.name}"
        for service in services
        for method in service.methods
        if method.GetOptions().idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    }
    assert wanted == _WITHOUT_SIDE_EFFECTS
    assert "/trustlayer.v1.ValidatorService/Validate" in wanted
    assert "/trustlayer.v1.SessionService/Login" not in wanted


def test_errors_cross_from_one_process_to_another() -> None:
    failure = trustlayer.Failure(UNAVAILABLE, "STORAGE_FULL", "full", 1.5, ("a", "b"), "id")
    for error in (
        SessionDenied(DenialReason.IDLE, "idle"),
        SessionDenied(DenialReason(99)),
        ValidatorUnavailable(failure),
        CallFailed(failure),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert (str(copy), copy.args) == (str(error), error.args)


@pytest.mark.parametrize("socket", ["", "unix:/x.sock"])
def test_a_socket_is_a_path(socket: str) -> None:
    with pytest.raises(ValueError, match="path"):
        Client(socket)


def test_many_threads_may_use_one_client(socket: str, ada: LoggedIn) -> None:
    failures: list[BaseException] = []
    together = threading.Barrier(8)

    with Client(socket) as client:

        def work() -> None:
            try:
                together.wait()
                for _ in range(5):
                    client.validate(ada.session_id, client_ip=CLIENT_IP)
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(client._channel._channels) == 1
    assert failures == []


def wait_until(condition: Callable[[], bool], *, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
